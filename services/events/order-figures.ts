import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';

/** What one order adds to its user's statistics, by what it is now. */
export interface OrderFigures {
  orders: bigint;
  /** Paid and not refunded in full. */
  paid: bigint;
  cancelled: bigint;
  /** Refunded in full. */
  refunded: bigint;
  /** Total of an order that was paid, whatever went back later. */
  paidMinor: bigint;
  refundedMinor: bigint;
}

export const figureNames = [
  'orders',
  'paid',
  'cancelled',
  'refunded',
  'paidMinor',
  'refundedMinor',
] as const satisfies readonly (keyof OrderFigures)[];

export function noFigures(): OrderFigures {
  return { orders: 0n, paid: 0n, cancelled: 0n, refunded: 0n, paidMinor: 0n, refundedMinor: 0n };
}

/** The figures of an order; tickets that are no order yet, or never became one, have none. */
export function figuresOf(order: {
  readonly status: number;
  readonly totalMinor: bigint;
  readonly refundedMinor: bigint;
}): OrderFigures {
  const { status, totalMinor, refundedMinor } = order;
  switch (status) {
    case OrderStatus.ORDER_STATUS_PENDING:
      return { ...noFigures(), orders: 1n };
    case OrderStatus.ORDER_STATUS_CANCELLED:
      return { ...noFigures(), orders: 1n, cancelled: 1n };
    case OrderStatus.ORDER_STATUS_PAID:
    case OrderStatus.ORDER_STATUS_REFUNDING:
      return { ...noFigures(), orders: 1n, paid: 1n, paidMinor: totalMinor, refundedMinor };
    case OrderStatus.ORDER_STATUS_REFUNDED:
      return { ...noFigures(), orders: 1n, refunded: 1n, paidMinor: totalMinor, refundedMinor };
    default:
      return noFigures();
  }
}
