import { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { Payment } from './payment.ts';
import { type PaymentDatabase, waitingTransaction } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import { lockPayments, readPaymentsOfOrder } from './payment-store.ts';
import type { RecordPayments } from './record-payments.ts';
import {
  amountToRefund,
  cancelRequestId,
  isSameWish,
  operatorPrefix,
  type Refund,
  type RefundWish,
  refundableMinor,
} from './refund.ts';
import { insertRefunds, type NewRefund, refundsOfLocked } from './refund-store.ts';

export interface RefundUseCases {
  /**
   * Notes a refund down on an operator's word; the same request again is answered with the refund it made. A SURPLUS
   * payment goes back by itself: of that an operator asks for what the provider has refused for good.
   *
   * @throws Refusal NOT_FOUND, IDEMPOTENCY_KEY_REUSED, ILLEGAL_TRANSITION, INVALID_REQUEST, OUTCOME_UNKNOWN
   */
  refundPayment(paymentId: bigint, wish: RefundWish, deadline: Deadline): Promise<Refund>;
  /**
   * Notes down that all that is left of an order's payment goes back, once.
   *
   * @throws Refusal NOT_FOUND if no payment pays the order, OUTCOME_UNKNOWN, DEPENDENCY_DOWN
   */
  refundOrder(orderId: bigint, deadline: Deadline): Promise<Refund>;
}

export interface RefundUseCasesOptions {
  readonly database: PaymentDatabase;
  readonly recordPayments: Pick<RecordPayments, 'tell'>;
  readonly wakeRefunds: () => void;
  readonly metrics: Pick<PaymentMetrics, 'refunds'>;
}

export function createRefundUseCases(options: RefundUseCasesOptions): RefundUseCases {
  const { database } = options;

  /** Everything that decides on a refund happens under the lock of the payment's row. */
  async function underLock(
    paymentId: bigint,
    deadline: Deadline,
    decide: (payment: Payment, refunds: readonly Refund[]) => Refund | NewRefund,
  ): Promise<Refund> {
    const noted = await waitingTransaction(database, { deadline }, async (connection) => {
      const payment = (await lockPayments(connection, [paymentId])).get(paymentId);
      if (payment === undefined) throw noPayment();
      const refunds = await refundsOfLocked(connection, paymentId);
      const decided = decide(payment, refunds);
      if ('refundId' in decided) return { refund: decided, fresh: false };
      const refund = await insert(connection, decided);
      if (failpoints.on) await failpoints.hit('payment.before_refund_note_commit', { paymentId });
      return { refund, fresh: true };
    });
    if (failpoints.on) await failpoints.hit('payment.after_refund_note_commit', { paymentId });
    if (noted.fresh) {
      options.metrics.refunds.inc({ status: 'requested' });
      options.wakeRefunds();
    }
    return noted.refund;
  }

  return {
    refundPayment(paymentId, wish, deadline) {
      const requestId = `${operatorPrefix}${wish.requestId}`;
      return underLock(paymentId, deadline, (payment, refunds) => {
        const before = refunds.find((refund) => refund.requestId === requestId);
        if (before) {
          if (isSameWish(before, wish)) return before;
          throw new Refusal('IDEMPOTENCY_KEY_REUSED');
        }
        const { reason, restock } = wish;
        const amount = amountToRefund(payment, refunds, wish);
        return { paymentId, requestId, amount, whole: !wish.amount, reason, restock };
      });
    },

    async refundOrder(orderId, deadline) {
      const paymentId = await payingPayment(options, orderId, deadline);
      return await underLock(paymentId, deadline, (payment, refunds) => {
        const before = refunds.find(({ requestId }) => requestId === cancelRequestId);
        if (before) return before;
        // Operators may have given all of it back already; then that is the answer.
        const newest = refunds.at(-1);
        if (newest && refundableMinor(payment, refunds) <= 0n) return newest;
        const wish = { amount: undefined, reason: 'The buyer cancelled', restock: false };
        const requestId = cancelRequestId;
        const amount = amountToRefund(payment, refunds, { ...wish, requestId });
        return { ...wish, paymentId, requestId, amount, whole: true };
      });
    },
  };
}

/** The payment that pays an order. Order may know of it before its answer was stored here; then it is asked again. */
async function payingPayment(
  { database, recordPayments }: RefundUseCasesOptions,
  orderId: bigint,
  deadline: Deadline,
): Promise<bigint> {
  const payments = await readPaymentsOfOrder(database, orderId, deadline);
  const { PAYMENT_SETTLEMENT_RECORDED: recorded, PAYMENT_SETTLEMENT_AWAITING: awaiting } =
    PaymentSettlement;
  const paying = payments.find(({ settlement }) => settlement === recorded);
  if (paying) return paying.paymentId;
  for (const payment of payments.filter(({ settlement }) => settlement === awaiting)) {
    const answer = await recordPayments.tell(payment, deadline);
    if (answer === 'RECORDED') return payment.paymentId;
  }
  throw noPayment();
}

async function insert(connection: PoolConnection, refund: NewRefund): Promise<Refund> {
  const [refundId] = await insertRefunds(connection, [refund]);
  const stored = await refundsOfLocked(connection, refund.paymentId);
  const found = stored.find((candidate) => candidate.refundId === refundId);
  if (found === undefined) throw new Error('a refund that was inserted cannot be read');
  return found;
}

function noPayment(): Refusal {
  return new Refusal('NOT_FOUND', 'There is no such payment');
}
