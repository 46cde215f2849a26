import { Refusal, type RefusalDetails, type RefusalReason } from '../runtime/refusals.ts';

/**
 * What a failed call says about its provider. `unwell`: it gave no answer, or a fresh 5xx. `too fast`: it turned the call
 * away for the rate, or for a lock, and did nothing. `nothing`: it answered, about this one payment or our own settings.
 */
export type Tells = 'unwell' | 'too fast' | 'nothing';

export interface ProviderRefusalDetails extends RefusalDetails {
  readonly tells: Tells;
  /** The answer of an earlier call, repeated because of its idempotency key; default false. */
  readonly replayed?: boolean;
}

/** A provider's refusal, or its silence, with what that says about the provider as a whole. */
export class ProviderRefusal extends Refusal {
  readonly tells: Tells;
  readonly replayed: boolean;

  constructor(
    reason: RefusalReason,
    message: string,
    { tells, replayed = false, ...details }: ProviderRefusalDetails,
  ) {
    super(reason, message, details);
    this.tells = tells;
    this.replayed = replayed;
  }
}

/** What any error of a call says about its provider. */
export function tellsOf(error: unknown): Tells {
  if (error instanceof ProviderRefusal) return error.tells;
  const isAnswer = error instanceof Refusal && error.reason === 'INVALID_REQUEST';
  return isAnswer ? 'nothing' : 'unwell';
}

/** Whether this failure is what the provider will answer under the same idempotency key for a day. */
export function isReplayed(error: unknown): boolean {
  return error instanceof ProviderRefusal && error.replayed;
}

/** How long a header asks to wait, in milliseconds; 0 if it asks for nothing readable, an hour at most. */
export function retryAfterMsOf(header: unknown, nowMs = Date.now()): number {
  if (typeof header !== 'string') return 0;
  const isSeconds = /^\d{1,9}$/.test(header);
  const ms = isSeconds ? Number(header) * 1_000 : Date.parse(header) - nowMs;
  return Number.isFinite(ms) ? Math.min(Math.max(0, ms), retryAfterMsMax) : 0;
}

const retryAfterMsMax = 3_600_000;
