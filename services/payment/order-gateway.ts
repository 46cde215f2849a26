import type { Gauge } from 'prom-client';
import { OrderServiceDefinition, PaymentRecord } from '../../gen/sluice/order/v1/order_service.ts';
import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { Payment } from './payment.ts';

/** What is to be paid, and until when. */
export interface Due {
  readonly total: Money;
  readonly expireTime: Date;
}

/** The progress of a refund, as order is told it. */
export interface RefundProgress {
  readonly orderId: bigint;
  readonly paymentId: bigint;
  readonly refundedTotal: Money;
  readonly done: boolean;
  readonly restock: boolean;
}

/** The payment service's way to the order service. */
export interface OrderGateway {
  /** @throws Refusal NOT_FOUND, ILLEGAL_TRANSITION (not to be paid any more), DEPENDENCY_DOWN, OUTCOME_UNKNOWN */
  beginPayment(orderId: bigint, userId: bigint, deadline: Deadline): Promise<Due>;
  /**
   * Whether the payment pays its order. An order that does not exist, or whose total is another, is not paid by it.
   *
   * @throws Refusal if that is not known
   */
  recordPayment(payment: Payment, deadline: Deadline): Promise<'RECORDED' | 'ORDER_CLOSED'>;
  /** @throws Refusal; telling again does no harm */
  recordRefund(progress: RefundProgress, deadline: Deadline): Promise<void>;
  /** Whether a connection is up. */
  connected(): boolean;
  close(): void;
}

const callTable = {
  beginPayment: { deadlineMs: 2_000, retry: true, breaker: 'order.begin' },
  recordPayment: { deadlineMs: 5_000, retry: true, breaker: 'order.record' },
  recordRefund: { deadlineMs: 5_000, retry: true, breaker: 'order.refund' },
} as const;

export function connectOrder(options: {
  readonly addresses: readonly string[];
  readonly log: Log;
  readonly breakerState: Gauge<'name'>;
}): OrderGateway {
  const order = createGrpcClient(OrderServiceDefinition, { ...options, callTable });
  return {
    async beginPayment(orderId, userId, deadline) {
      const { order: begun } = await order.client.beginPayment({ orderId, userId }, { deadline });
      if (!begun?.total || !begun.expireTime) {
        throw new Refusal('OUTCOME_UNKNOWN', 'order answered without an order to pay');
      }
      return { total: begun.total, expireTime: begun.expireTime };
    },
    async recordPayment({ orderId, paymentId, amount }, deadline) {
      try {
        const request = { orderId, paymentId, amount };
        const { record } = await order.client.recordPayment(request, { deadline });
        return recordOf(record);
      } catch (error) {
        if (isNeverRecorded(error)) return 'ORDER_CLOSED';
        throw error;
      }
    },
    async recordRefund(progress, deadline) {
      await order.client.recordRefund(progress, { deadline });
    },
    connected: () => order.connected(),
    close: () => order.close(),
  };
}

/** A number that we do not know decides nothing. */
function recordOf(record: PaymentRecord): 'RECORDED' | 'ORDER_CLOSED' {
  if (record === PaymentRecord.PAYMENT_RECORD_RECORDED) return 'RECORDED';
  if (record === PaymentRecord.PAYMENT_RECORD_ORDER_CLOSED) return 'ORDER_CLOSED';
  throw new Refusal('OUTCOME_UNKNOWN', `order answered ${record} to a payment`);
}

function isNeverRecorded(error: unknown): boolean {
  if (!(error instanceof Refusal)) return false;
  if (error.reason === 'NOT_FOUND') return true;
  const aboutAmount = error.violations.some(({ field }) => field.startsWith('amount'));
  return error.reason === 'INVALID_REQUEST' && aboutAmount;
}
