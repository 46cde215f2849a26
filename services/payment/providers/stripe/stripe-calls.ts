import Stripe from 'stripe';
import type { Deadline } from '../../../runtime/deadline.ts';
import type { Log } from '../../../runtime/log.ts';
import { Refusal } from '../../../runtime/refusals.ts';
import { ProviderRefusal, retryAfterMsOf } from '../../provider-refusal.ts';

export interface StripeCalls {
  /**
   * Makes one call within the deadline.
   *
   * @param call gets the time that is left, in whole milliseconds, and reads the answer: one that it cannot read is unknown
   * @throws ProviderRefusal as PaymentProvider says
   */
  run<Answer>(deadline: Deadline, call: (timeoutMs: number) => Promise<Answer>): Promise<Answer>;
}

export function createStripeCalls(log: Log): StripeCalls {
  return {
    async run(deadline, call) {
      // The package takes 0, or a fraction, for its default of 80 s.
      const leftMs = Math.floor(deadline.leftMs());
      if (leftMs < 1) {
        const text = 'no time was left to ask Stripe';
        throw new ProviderRefusal('DEPENDENCY_DOWN', text, { tells: 'nothing' });
      }
      // Its timeout counts silence on the connection; the deadline counts all.
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_resolve, reject) => {
        timer = setTimeout(reject, leftMs, new Refusal('OUTCOME_UNKNOWN', 'Stripe did not answer'));
      });
      try {
        return await Promise.race([call(leftMs), late]);
      } catch (error) {
        throw error instanceof Refusal ? error : refusalOf(error, log);
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

/** Whether Stripe refused what was asked for good, so that no repetition helps. */
export function isRefusedForGood(error: unknown): error is Refusal {
  return error instanceof Refusal && error.reason === 'INVALID_REQUEST';
}

const { errors } = Stripe;

/** Errors of a connection that was never made: the request cannot have been read by anybody. */
const notConnected = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
]);

function refusalOf(error: unknown, log: Log): Refusal {
  const cause = error;
  if (error instanceof errors.StripeConnectionError) {
    const { code } = (error.detail ?? {}) as { code?: unknown };
    const unwell = { tells: 'unwell', cause } as const;
    return typeof code === 'string' && notConnected.has(code)
      ? new ProviderRefusal('DEPENDENCY_DOWN', 'Stripe cannot be reached', unwell)
      : new ProviderRefusal('OUTCOME_UNKNOWN', 'Stripe did not answer', unwell);
  }
  // An answer, whatever it says, of which nothing follows for other payments.
  const details = { tells: 'nothing', cause } as const;
  if (!(error instanceof errors.StripeError)) {
    return new ProviderRefusal('OUTCOME_UNKNOWN', 'Stripe answered something unreadable', details);
  }
  if (
    error instanceof errors.StripeAuthenticationError ||
    error instanceof errors.StripePermissionError
  ) {
    // Our own setting is wrong: nothing was done, and no payment or refund is to fail for it.
    log.error({ status: error.statusCode }, 'Stripe refuses our key');
    return new ProviderRefusal('DEPENDENCY_DOWN', 'Stripe refuses our key', details);
  }
  const waitMs = retryAfterMsOf(error.headers?.['retry-after']);
  const retryAfter = waitMs > 0 ? { retryAfterMs: waitMs } : {};
  // Turned away for the rate, or for a lock of the account (lock_timeout), before anything was done.
  if (error instanceof errors.StripeRateLimitError) {
    const tooFast = { tells: 'too fast', cause, ...retryAfter } as const;
    return new ProviderRefusal('OVERLOADED', 'Stripe takes no more calls now', tooFast);
  }
  const isFinal =
    error instanceof errors.StripeInvalidRequestError ||
    error instanceof errors.StripeCardError ||
    error instanceof errors.StripeIdempotencyError;
  if (isFinal) {
    return new ProviderRefusal('INVALID_REQUEST', `Stripe refused: ${error.message}`, details);
  }
  // 409 while a call with the same key is under way, and 5xx: fresh, or the answer of an earlier call, which Stripe stores
  // under the idempotency key for a day.
  const replayed = error.headers?.['idempotent-replayed'] === 'true';
  const isFresh = (error.statusCode ?? 500) >= 500 && !replayed;
  return new ProviderRefusal('OUTCOME_UNKNOWN', `Stripe answered ${error.statusCode ?? ''}`, {
    ...{ tells: isFresh ? 'unwell' : 'nothing', replayed, cause },
    ...retryAfter,
  });
}
