import { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { isBusinessRefusal } from '../runtime/refusals.ts';
import { claimPayments } from './claims.ts';
import type { PaymentDatabase } from './payment-database.ts';
import type { PaymentSessions } from './payment-session.ts';

/** A silent payment is asked for at most this often in the end. */
const pollMaxMs = 300_000;
const intervalMaxMs = 1_000;
const deadlineMs = 10_000;
/** Asked for together; bottleneck spaces them out, and one round ends before its deadline. */
const pageMax = 50;
const pagesMax = 20;

export interface PollSessionsOptions {
  readonly database: PaymentDatabase;
  readonly sessions: Pick<PaymentSessions, 'refresh'>;
  /** How long a payment may stay silent before it is first asked for; doubled each time. */
  readonly pollMs: number;
  readonly log: Log;
}

/**
 * Asks the provider about payments whose webhook has not come, as long as money could still come in. Opens sessions again
 * whose opening was cut short, so that nothing stays half done.
 */
export function startPollSessions({ database, sessions, pollMs, log }: PollSessionsOptions): Loop {
  const claim = {
    settlement: PaymentSettlement.PAYMENT_SETTLEMENT_UNSPECIFIED,
    backoff: { firstMs: pollMs, maxMs: Math.max(pollMs, pollMaxMs) },
    max: pageMax,
  };
  return startLoop({
    name: 'poll-sessions',
    intervalMs: Math.min(intervalMaxMs, pollMs / 2),
    log,
    async run(signal) {
      for (let page = 0; page < pagesMax && !signal.aborted; page += 1) {
        const due = await claimPayments(database, claim, Deadline.after(deadlineMs));
        const polled = await Promise.allSettled(
          due.map((payment) => sessions.refresh(payment, Deadline.after(deadlineMs))),
        );
        // A business refusal is an answer: the order closes, and so did its session.
        const failed = polled.find(
          (result) => result.status === 'rejected' && !isBusinessRefusal(result.reason),
        );
        if (failed?.status === 'rejected') throw failed.reason;
        if (due.length < pageMax) return;
      }
    },
  });
}
