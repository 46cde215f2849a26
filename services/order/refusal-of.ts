import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';

/** An error of ours may have struck after the effect, such as the reservation, so its outcome is unknown. */
export function refusalOf(error: unknown, what: string, log: Log): Refusal {
  if (error instanceof Refusal) return error;
  log.error({ err: error }, `${what} failed unexpectedly`);
  return new Refusal('OUTCOME_UNKNOWN', undefined, { cause: error });
}
