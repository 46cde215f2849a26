import { CloseReason, OrderStatus } from '../../../gen/sluice/order/v1/order.ts';
import {
  PaymentSettlement,
  PaymentStatus,
  RefundStatus,
} from '../../../gen/sluice/payment/v1/payment.ts';

/** Order states by their names without the prefix. */
export const order = {
  pending: OrderStatus.ORDER_STATUS_PENDING as number,
  paid: OrderStatus.ORDER_STATUS_PAID as number,
  refunding: OrderStatus.ORDER_STATUS_REFUNDING as number,
  refunded: OrderStatus.ORDER_STATUS_REFUNDED as number,
  cancelled: OrderStatus.ORDER_STATUS_CANCELLED as number,
  queued: OrderStatus.ORDER_STATUS_QUEUED as number,
  rejected: OrderStatus.ORDER_STATUS_REJECTED as number,
  aborted: OrderStatus.ORDER_STATUS_ABORTED as number,
} as const;

export const payment = {
  pending: PaymentStatus.PAYMENT_STATUS_PENDING as number,
  succeeded: PaymentStatus.PAYMENT_STATUS_SUCCEEDED as number,
} as const;

export const settlement = {
  none: PaymentSettlement.PAYMENT_SETTLEMENT_UNSPECIFIED as number,
  awaiting: PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING as number,
  recorded: PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED as number,
  surplus: PaymentSettlement.PAYMENT_SETTLEMENT_SURPLUS as number,
} as const;

export const refund = {
  succeeded: RefundStatus.REFUND_STATUS_SUCCEEDED as number,
  failed: RefundStatus.REFUND_STATUS_FAILED as number,
} as const;

/** `refunds.told`: order knows all that it is to know. */
export const toldAll = 2;

/** `stock_holds.state`. */
export const hold = { held: 1, sold: 2, released: 3, restocked: 4, fenced: 5 } as const;

const holdNames = ['', 'HELD', 'SOLD', 'RELEASED', 'RESTOCKED', 'FENCED'];

export function holdName(state: number): string {
  return holdNames[state] ?? `state ${state}`;
}

export const statusName = namesOf(OrderStatus, 'ORDER_STATUS_');
export const paymentName = namesOf(PaymentStatus, 'PAYMENT_STATUS_');
export const settlementName = namesOf(PaymentSettlement, 'PAYMENT_SETTLEMENT_');
export const refundName = namesOf(RefundStatus, 'REFUND_STATUS_');
export const closeReasonName = namesOf(CloseReason, 'CLOSE_REASON_');

/** The names of an enumeration by their numbers, without the prefix; a number from a newer version stays a number. */
function namesOf(
  enumeration: Readonly<Record<string, number>>,
  prefix: string,
): (value: number) => string {
  const names = new Map(
    Object.entries(enumeration).map(([name, value]) => [value, name.replace(prefix, '')]),
  );
  return (value) => names.get(value) ?? `state ${value}`;
}

/** Whether the order exists for its buyer and owns its stock. */
export function isLive(status: number): boolean {
  return status >= order.pending && status <= order.refunded;
}

/** Whether money came for it. */
export function wasPaid(status: number): boolean {
  return status >= order.paid && status <= order.refunded;
}

/** Whether it must own no stock. */
export function isDead(status: number): boolean {
  return status === order.cancelled || status === order.rejected || status === order.aborted;
}
