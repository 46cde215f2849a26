import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { OrderResolution } from '../../gen/sluice/order/v1/order_service.ts';

/** What can happen to an order after its creation. */
export type Transition = 'pay' | 'beginRefund' | 'finishRefund' | 'cancel' | 'expire';

interface TransitionRule {
  readonly from: OrderStatus;
  readonly to: OrderStatus;
  readonly closeReason: CloseReason;
}

const rule = (
  from: OrderStatus,
  to: OrderStatus,
  closeReason: CloseReason = CloseReason.CLOSE_REASON_UNSPECIFIED,
): TransitionRule => ({ from, to, closeReason });

const { ORDER_STATUS_PENDING: pending, ORDER_STATUS_CANCELLED: cancelled } = OrderStatus;
const { ORDER_STATUS_PAID: paid, ORDER_STATUS_REFUNDING: refunding } = OrderStatus;

/** The whole state machine: PENDING → PAID → REFUNDING → REFUNDED; PENDING → CANCELLED. */
export const transitions: Readonly<Record<Transition, TransitionRule>> = {
  pay: rule(pending, paid),
  beginRefund: rule(paid, refunding),
  finishRefund: rule(refunding, OrderStatus.ORDER_STATUS_REFUNDED),
  cancel: rule(pending, cancelled, CloseReason.CLOSE_REASON_USER),
  expire: rule(pending, cancelled, CloseReason.CLOSE_REASON_EXPIRED),
};

/** What a transition does to an order in a state. */
export type TransitionEffect =
  | { readonly kind: 'moves'; readonly to: OrderStatus; readonly closeReason: CloseReason }
  /** The order is in the target state already: a repeated request, answered unchanged. */
  | { readonly kind: 'done' }
  | { readonly kind: 'illegal' };

/** Decides a transition; never throws, whatever number the state is. */
export function decideTransition(status: OrderStatus, transition: Transition): TransitionEffect {
  const { from, to, closeReason } = transitions[transition];
  if (status === from) return { kind: 'moves', to, closeReason };
  return status === to ? { kind: 'done' } : { kind: 'illegal' };
}

/** Whether nothing can change an order any more. */
export function isFinal(status: OrderStatus): boolean {
  return (
    status === cancelled ||
    status === OrderStatus.ORDER_STATUS_REFUNDED ||
    status === OrderStatus.ORDER_STATUS_REJECTED ||
    isHidden(status)
  );
}

/** Fences are not orders: no read shows them. */
export function isHidden(status: OrderStatus): boolean {
  return status === OrderStatus.ORDER_STATUS_ABORTED;
}

/** What a stored state means for the order's stock; a ticket that is still queued is undecided. */
export function resolutionOf(status: OrderStatus): OrderResolution {
  switch (status) {
    case OrderStatus.ORDER_STATUS_PENDING:
      return OrderResolution.ORDER_RESOLUTION_LIVE;
    case OrderStatus.ORDER_STATUS_PAID:
    case OrderStatus.ORDER_STATUS_REFUNDING:
    case OrderStatus.ORDER_STATUS_REFUNDED:
      return OrderResolution.ORDER_RESOLUTION_SOLD;
    case OrderStatus.ORDER_STATUS_CANCELLED:
    case OrderStatus.ORDER_STATUS_REJECTED:
    case OrderStatus.ORDER_STATUS_ABORTED:
      return OrderResolution.ORDER_RESOLUTION_DEAD;
    default:
      return OrderResolution.ORDER_RESOLUTION_UNDECIDED;
  }
}

/** The state's name without its prefix, for messages to people. */
export function statusName(status: OrderStatus): string {
  const names = Object.entries(OrderStatus).find(([, number]) => number === status);
  return names?.[0].replace('ORDER_STATUS_', '') ?? `state ${status}`;
}
