import { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import { type ClaimedWorkOptions, startClaimedWork } from '../runtime/claimed-work.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import type { Loop } from '../runtime/loop.ts';
import { isBusinessRefusal } from '../runtime/refusals.ts';
import { type ClaimedPayment, claimPayments } from './claims.ts';
import type { PaymentDatabase } from './payment-database.ts';
import type { PaymentSessions } from './payment-session.ts';

/** A silent payment is asked for at most this often in the end. */
const pollMaxMs = 300_000;
const intervalMaxMs = 1_000;
const claimMs = 5_000;
const deadlineMs = 10_000;
/** Asked for at once: at 50 in a second each may take a third of one. */
const slots = 16;

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
  };
  const work: ClaimedWorkOptions<ClaimedPayment> = {
    name: 'poll-sessions',
    intervalMs: Math.min(intervalMaxMs, pollMs / 2),
    ...{ slots, log },
    claim: (max) => claimPayments(database, { ...claim, max }, Deadline.after(claimMs)),
    async run(payment) {
      try {
        await sessions.refresh(payment, Deadline.after(deadlineMs));
      } catch (error) {
        // A business refusal is an answer: the order closes, and so did its session.
        if (!isBusinessRefusal(error)) throw error;
      }
    },
  };
  return startClaimedWork(work);
}
