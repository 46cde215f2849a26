import Stripe from 'stripe';
import type { Deadline } from '../../../runtime/deadline.ts';
import type { Log } from '../../../runtime/log.ts';
import { Refusal } from '../../../runtime/refusals.ts';
import { ReplayedRefusal, retryAfterMsOf } from '../../provider-refusal.ts';

export interface StripeCalls {
  /**
   * Makes one call within the deadline.
   *
   * @param call gets the time that is left, in whole milliseconds, and reads the answer: one that it cannot read is unknown
   * @throws Refusal as PaymentProvider says
   */
  run<Answer>(deadline: Deadline, call: (timeoutMs: number) => Promise<Answer>): Promise<Answer>;
}

export function createStripeCalls(log: Log): StripeCalls {
  return {
    async run(deadline, call) {
      // The package takes 0, or a fraction, for its default of 80 s.
      const leftMs = Math.floor(deadline.leftMs());
      if (leftMs < 1) throw new Refusal('OVERLOADED', 'no time was left to ask Stripe');
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
  if (error instanceof errors.StripeConnectionError) {
    const { code } = (error.detail ?? {}) as { code?: unknown };
    return typeof code === 'string' && notConnected.has(code)
      ? new Refusal('DEPENDENCY_DOWN', 'Stripe cannot be reached', { cause: error })
      : new Refusal('OUTCOME_UNKNOWN', 'Stripe did not answer', { cause: error });
  }
  if (!(error instanceof errors.StripeError)) {
    const details = { answered: true, cause: error };
    return new Refusal('OUTCOME_UNKNOWN', 'Stripe answered something unreadable', details);
  }
  const { statusCode = 500, headers = {} } = error;
  const details = { answered: true, cause: error };
  if (
    error instanceof errors.StripeAuthenticationError ||
    error instanceof errors.StripePermissionError
  ) {
    // Our own setting is wrong: nothing was done, and no payment or refund is to fail for it.
    log.error({ status: statusCode }, 'Stripe refuses our key');
    return new Refusal('DEPENDENCY_DOWN', 'Stripe refuses our key', details);
  }
  // Turned away for the rate, or for a lock of the account (lock_timeout), before anything was done.
  if (error instanceof errors.StripeRateLimitError) {
    const retryAfterMs = retryAfterMsOf(headers['retry-after']);
    return new Refusal('OVERLOADED', 'Stripe takes no more calls now', {
      ...details,
      retryAfterMs,
    });
  }
  const isFinal =
    error instanceof errors.StripeInvalidRequestError ||
    error instanceof errors.StripeCardError ||
    error instanceof errors.StripeIdempotencyError;
  if (isFinal) return new Refusal('INVALID_REQUEST', `Stripe refused: ${error.message}`, details);
  const text = `Stripe answered ${statusCode}`;
  if (headers['idempotent-replayed'] === 'true') {
    return new ReplayedRefusal('OUTCOME_UNKNOWN', text, details);
  }
  // 5xx; 409 is an answer: a call with the same key is under way.
  return new Refusal('OUTCOME_UNKNOWN', text, { ...details, answered: statusCode < 500 });
}
