import type { Gauge } from 'prom-client';
import {
  OrderServiceDefinition,
  PaymentRecord,
  type RecordPaymentResult,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import { encodeWhole } from '../runtime/grpc-messages.ts';
import type { Log } from '../runtime/log.ts';
import { fromRefusalMessage } from '../runtime/refusal-status.ts';
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

/** What order answered to a payment. */
export type OrderAnswer = 'RECORDED' | 'ORDER_CLOSED';

/** The payment service's way to the order service. */
export interface OrderGateway {
  /** @throws Refusal NOT_FOUND, ILLEGAL_TRANSITION (not to be paid any more), DEPENDENCY_DOWN, OUTCOME_UNKNOWN */
  beginPayment(orderId: bigint, userId: bigint, deadline: Deadline): Promise<Due>;
  /**
   * Whether each payment pays its order, in their order; a Refusal where that is not known. An order that does not exist,
   * or whose total is another, is not paid. At most 500 payments.
   *
   * @throws Refusal if nothing is known of any of them
   */
  recordPayments(
    payments: readonly Payment[],
    deadline: Deadline,
  ): Promise<readonly (OrderAnswer | Refusal)[]>;
  /** @throws Refusal; telling again does no harm */
  recordRefund(progress: RefundProgress, deadline: Deadline): Promise<void>;
  /** Whether a connection is up. */
  connected(): boolean;
  close(): void;
}

const callTable = {
  beginPayment: { deadlineMs: 2_000, retry: true, breaker: 'order.begin' },
  batchRecordPayments: { deadlineMs: 5_000, retry: true, breaker: 'order.record' },
  recordRefund: { deadlineMs: 5_000, retry: true, breaker: 'order.refund' },
} as const;

export function connectOrder(options: {
  readonly addresses: readonly string[];
  readonly log: Log;
  readonly breakerState: Gauge<'name'>;
}): OrderGateway {
  const definition = encodeWhole(OrderServiceDefinition, ['batchRecordPayments']);
  const order = createGrpcClient(definition, { ...options, callTable });
  return {
    async beginPayment(orderId, userId, deadline) {
      const { order: begun } = await order.client.beginPayment({ orderId, userId }, { deadline });
      if (!begun?.total || !begun.expireTime) {
        throw new Refusal('OUTCOME_UNKNOWN', 'order answered without an order to pay');
      }
      return { total: begun.total, expireTime: begun.expireTime };
    },
    async recordPayments(payments, deadline) {
      const requests = payments.map(({ orderId, paymentId, amount }) => ({
        ...{ orderId, paymentId, amount },
      }));
      const { results } = await order.client.batchRecordPayments({ requests }, { deadline });
      return results.map(answerOf);
    },
    async recordRefund(progress, deadline) {
      await order.client.recordRefund(progress, { deadline });
    },
    connected: () => order.connected(),
    close: () => order.close(),
  };
}

/** An outcome or a number that we do not know decides nothing. */
function answerOf({ outcome }: RecordPaymentResult): OrderAnswer | Refusal {
  if (outcome?.$case === 'refusal') {
    const refusal = fromRefusalMessage(outcome.value);
    return isNeverRecorded(refusal) ? 'ORDER_CLOSED' : refusal;
  }
  const record = outcome?.value.record;
  if (record === PaymentRecord.PAYMENT_RECORD_RECORDED) return 'RECORDED';
  if (record === PaymentRecord.PAYMENT_RECORD_ORDER_CLOSED) return 'ORDER_CLOSED';
  return new Refusal('OUTCOME_UNKNOWN', `order answered ${record} to a payment`);
}

function isNeverRecorded({ reason, violations }: Refusal): boolean {
  const aboutAmount = violations.some(({ field }) => field.startsWith('amount'));
  return reason === 'NOT_FOUND' || (reason === 'INVALID_REQUEST' && aboutAmount);
}
