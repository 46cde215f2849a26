import { Batcher } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { type Payment, paysOrder } from './payment.ts';
import type { PaymentDatabase } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import type { ClosePurpose, PaymentSessions } from './payment-session.ts';
import { closeOrders, readPaymentsOfOrders } from './payment-store.ts';

/**
 * What closing came to. CLOSED: no money can come in any more, but for what a provider takes in against its own word. PAID: a
 * payment pays the order or may yet. PROCESSING: the bank has not decided on a payment, and it cannot be stopped meanwhile;
 * no other session can be paid. Only a CLOSED order may be closed.
 */
export type Closing = 'CLOSED' | 'PAID' | 'PROCESSING';

/**
 * Voids every session of an order that could still be paid, and keeps new ones from being opened.
 *
 * @throws Refusal OUTCOME_UNKNOWN, DEPENDENCY_DOWN, OVERLOADED if a session may still be paid; asking again does no harm
 */
export type ClosePayment = (
  orderId: bigint,
  purpose: ClosePurpose,
  deadline: Deadline,
) => Promise<Closing>;

export interface ClosePaymentOptions {
  readonly database: PaymentDatabase;
  readonly sessions: Pick<PaymentSessions, 'void'>;
  readonly metrics: Pick<PaymentMetrics, 'hops' | 'closed'>;
}

/** Orders fenced in one statement. */
const entriesMax = 100;
const inFlightMax = 2;
/** More than order has under way at once, from all its copies. */
const queueDepthMax = 2_000;

export function createClosePayment({ database, sessions, metrics }: ClosePaymentOptions): {
  readonly closePayment: ClosePayment;
  close(): Promise<void>;
} {
  const fences = new Batcher<bigint, readonly Payment[]>({
    name: 'closings_to_mysql',
    ...{ entriesMax, inFlightMax, queueDepthMax, metrics: metrics.hops },
    run: (orderIds, { deadline }) => fence(database, orderIds, deadline),
  });

  async function closeOne(
    orderId: bigint,
    purpose: ClosePurpose,
    deadline: Deadline,
  ): Promise<Closing> {
    const payments = await fences.add(orderId, deadline);
    // All of them are tried before the first failure is told; there are few, each bounded by the provider's own places.
    const voided = await Promise.allSettled(
      payments.map((payment) => sessions.void(payment, deadline, purpose)),
    );
    const done = voided.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    if (done.some(({ payment }) => paysOrder(payment))) return 'PAID';
    const failed = voided.find((one) => one.status === 'rejected');
    if (failed) throw failed.reason;
    return done.some(({ isProcessing }) => isProcessing) ? 'PROCESSING' : 'CLOSED';
  }

  return {
    async closePayment(orderId, purpose, deadline) {
      try {
        const result = await closeOne(orderId, purpose, deadline);
        metrics.closed.inc({ result: result.toLowerCase() });
        return result;
      } catch (error) {
        metrics.closed.inc({ result: 'failed' });
        throw error;
      }
    },
    close: () => fences.close(),
  };
}

/** Answers the payments of each order, read after its fence was committed: one that is not seen here sees the fence. */
async function fence(
  database: PaymentDatabase,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<Payment[][]> {
  const info = { orderIds };
  if (failpoints.on) await failpoints.hit('payment.before_close_order', info);
  const sorted = [...new Set(orderIds)].sort((a, b) => (a < b ? -1 : 1));
  await closeOrders(database, sorted, deadline);
  if (failpoints.on) await failpoints.hit('payment.after_close_order', info);
  const payments = await readPaymentsOfOrders(database, sorted, deadline);
  const ofOrder = Map.groupBy(payments, ({ orderId }) => orderId);
  return orderIds.map((orderId) => ofOrder.get(orderId) ?? []);
}
