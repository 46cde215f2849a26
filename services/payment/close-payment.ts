import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { paysOrder } from './payment.ts';
import type { PaymentDatabase } from './payment-database.ts';
import type { PaymentSessions } from './payment-session.ts';
import { closeOrder, readPaymentsOfOrder } from './payment-store.ts';

/**
 * Voids every session of an order that could still be paid, and keeps new ones from being opened. PAID if a payment pays
 * the order or may yet: the order must not be closed then. CLOSED means that no money can come in any more, but for what a
 * provider takes in against its own word.
 *
 * @throws Refusal OUTCOME_UNKNOWN, DEPENDENCY_DOWN, OVERLOADED if a session may still be paid; asking again does no harm
 */
export type ClosePayment = (orderId: bigint, deadline: Deadline) => Promise<'CLOSED' | 'PAID'>;

export function createClosePayment({
  database,
  sessions,
}: {
  readonly database: PaymentDatabase;
  readonly sessions: Pick<PaymentSessions, 'void'>;
}): ClosePayment {
  return async (orderId, deadline) => {
    if (failpoints.on) await failpoints.hit('payment.before_close_order', { orderId });
    await closeOrder(database, orderId, deadline);
    if (failpoints.on) await failpoints.hit('payment.after_close_order', { orderId });
    // Read after the fence was committed: a payment that is not seen here sees the fence.
    const payments = await readPaymentsOfOrder(database, orderId, deadline);
    // All of them are tried before the first failure is told; there are few, each bounded by the provider's own queue.
    const voided = await Promise.allSettled(
      payments.map((payment) => sessions.void(payment, deadline)),
    );
    const isPaid = voided.some(
      (result) => result.status === 'fulfilled' && paysOrder(result.value),
    );
    if (isPaid) return 'PAID';
    const failed = voided.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
    return 'CLOSED';
  };
}
