import {
  type CloseReason,
  type Order,
  type OrderStatus,
  OrderStatus as Status,
} from '../../gen/sluice/order/v1/order.ts';
import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import { decideTransition, type Transition } from './order.ts';

// What the calls of buyers, of payment and of time do to an order, decided from the order as it is
// under its lock. Pure: whoever asks carries the decision out.

/** One version that a change adds to an order, with one row of history and one event. */
export interface OrderStep {
  readonly status: OrderStatus;
  readonly closeReason: CloseReason;
  /** The payment that pays it; absent: as it was. */
  readonly paymentId?: bigint;
  /** What went back to the buyer so far, in minor units; absent: as it was. */
  readonly refundedMinor?: bigint;
  /** Whether the event puts the units back on sale. */
  readonly restock?: boolean;
}

/** An order as it is under its lock, at `now` by MySQL's clock. */
export interface CurrentOrder {
  readonly order: Order;
  readonly paymentBegun: boolean;
  readonly now: Date;
}

/** The step of a transition out of the state that it leaves. @throws Error from any other state */
export function stepOf(transition: Transition, status: OrderStatus): OrderStep {
  const effect = decideTransition(status, transition);
  if (effect.kind !== 'moves') throw new Error(`${transition} does not leave state ${status}`);
  return { status: effect.to, closeReason: effect.closeReason };
}

/**
 * A payment may begin while the order is PENDING and its time is not over. One that costs nothing is not paid at all: no
 * provider takes a payment of 0, and what was paid must be able to go back.
 */
export function decideBeginPayment({
  order,
  now,
}: CurrentOrder): 'begins' | 'notPending' | 'free' | 'late' {
  if (order.status !== Status.ORDER_STATUS_PENDING) return 'notPending';
  if ((order.total?.minorUnits ?? 0n) <= 0n) return 'free';
  return now.getTime() < timeMs(order.expireTime) ? 'begins' : 'late';
}

/**
 * The payment that the order names is recorded, whatever came later. A PENDING order is paid by the
 * first payment that comes, also past its time; any other payment is too late.
 */
export function decideRecordPayment(
  { order }: CurrentOrder,
  payment: { readonly paymentId: bigint; readonly amount: Money | undefined },
): 'amountDiffers' | 'recorded' | 'pays' | 'closed' {
  if (!sameMoney(order.total, payment.amount)) return 'amountDiffers';
  if (order.paymentId === payment.paymentId) return 'recorded';
  return order.status === Status.ORDER_STATUS_PENDING ? 'pays' : 'closed';
}

/** The progress of refunds as payment tells it. */
export interface RefundProgress {
  readonly paymentId: bigint;
  readonly refundedTotal: Money | undefined;
  readonly done: boolean;
  readonly restock: boolean;
}

export type RefundDecision =
  | { readonly kind: 'steps'; readonly steps: readonly OrderStep[] }
  /** The field, by its name in the request, that does not fit the order. */
  | { readonly kind: 'invalid'; readonly field: string; readonly description: string };

/**
 * The sum only rises, so progress may be told again and out of order. Units go back on sale only
 * with the step that makes the sum whole; with less the flag has no effect.
 */
export function decideRecordRefund(
  { order }: CurrentOrder,
  { paymentId, refundedTotal, done, restock }: RefundProgress,
): RefundDecision {
  const { status, total } = order;
  if (paymentId === 0n || order.paymentId !== paymentId) {
    return invalid('payment_id', 'Send the payment that paid the order.');
  }
  const sum = refundedTotal?.minorUnits ?? 0n;
  const whole = total?.minorUnits ?? 0n;
  if (refundedTotal?.currencyCode !== total?.currencyCode || sum <= 0n || sum > whole) {
    return invalid('refunded_total', 'Send an amount above 0 and up to what was paid.');
  }
  const paid = status === Status.ORDER_STATUS_PAID;
  if (!paid && status !== Status.ORDER_STATUS_REFUNDING) return steps();
  const begins = paid && sum === whole ? [stepOf('beginRefund', status)] : [];
  if (!done) return steps(...begins);
  if (sum === whole) {
    const finish = stepOf('finishRefund', Status.ORDER_STATUS_REFUNDING);
    return steps(...begins, { ...finish, refundedMinor: sum, restock });
  }
  if (sum <= (order.refunded?.minorUnits ?? 0n)) return steps();
  return steps({ status, closeReason: order.closeReason, refundedMinor: sum });
}

/**
 * What a buyer's cancel does. `voided` says that no session can be paid any more; without it an
 * order whose payment has begun is left alone until that is so.
 */
export function decideCancel(
  { order, paymentBegun }: CurrentOrder,
  { voided }: { readonly voided: boolean },
): 'cancels' | 'voidFirst' | 'refundFirst' | 'unchanged' | 'illegal' {
  switch (order.status) {
    case Status.ORDER_STATUS_PENDING:
      return paymentBegun && !voided ? 'voidFirst' : 'cancels';
    case Status.ORDER_STATUS_PAID:
      return 'refundFirst';
    case Status.ORDER_STATUS_REFUNDING:
    case Status.ORDER_STATUS_REFUNDED:
    case Status.ORDER_STATUS_CANCELLED:
      return 'unchanged';
    default:
      return 'illegal';
  }
}

/** Whether time closes an order now; `voided` as for a cancel. */
export function decideExpire(
  { order, paymentBegun, now }: CurrentOrder,
  { voided }: { readonly voided: boolean },
): 'expires' | 'voidFirst' | 'unchanged' {
  if (order.status !== Status.ORDER_STATUS_PENDING) return 'unchanged';
  if (now.getTime() < timeMs(order.expireTime)) return 'unchanged';
  return paymentBegun && !voided ? 'voidFirst' : 'expires';
}

function steps(...list: OrderStep[]): RefundDecision {
  return { kind: 'steps', steps: list };
}

function invalid(field: string, description: string): RefundDecision {
  return { kind: 'invalid', field, description };
}

function sameMoney(a: Money | undefined, b: Money | undefined): boolean {
  return (
    a !== undefined && a.currencyCode === b?.currencyCode && a.minorUnits === (b?.minorUnits ?? -1n)
  );
}

function timeMs(time: Date | undefined): number {
  return time?.getTime() ?? 0;
}
