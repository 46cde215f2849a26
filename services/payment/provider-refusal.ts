import { Refusal } from '../runtime/refusals.ts';

// What a provider's failures say. A Refusal that is `answered` is about one payment, or about our own settings: nothing
// follows for other payments. One that is not (silence, a fresh 5xx) says that the provider is unwell.

/** The answer of an earlier call that failed: the provider repeats it under the same idempotency key for a day. */
export class ReplayedRefusal extends Refusal {}

/** Whether a provider turned a call away, for its rate or for a lock, and did nothing. */
export function isTooFast(error: unknown): error is Refusal {
  return error instanceof Refusal && error.reason === 'OVERLOADED' && error.answered;
}

const retryAfterMsMax = 3_600_000;

/** How long the header `retry-after` (seconds, or a date) asks to wait, in milliseconds; 0 if it asks for nothing. An hour at most. */
export function retryAfterMsOf(header: unknown, nowMs = Date.now()): number {
  if (typeof header !== 'string') return 0;
  const isSeconds = /^\d{1,9}$/.test(header);
  const ms = isSeconds ? Number(header) * 1_000 : Date.parse(header) - nowMs;
  return ms > 0 ? Math.min(ms, retryAfterMsMax) : 0;
}
