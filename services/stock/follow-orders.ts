import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { HoldMove } from './hold-states.ts';
import type { OrderMove } from './ledger-moves.ts';
import type { ReleaseStock } from './release-stock.ts';

const knownStatuses = new Set<number>(Object.values(OrderStatus).filter((status) => status > 0));

/** Reads an event. @throws Error if the bytes are none, or if it is newer than this service */
export function decodeOrderEvent(value: Uint8Array): OrderEvent {
  const event = OrderEvent.decode(value);
  if (event.orderId <= 0n) throw new Error('the event names no order');
  if (!knownStatuses.has(event.status)) throw new Error(`status ${event.status} is not known`);
  return event;
}

/**
 * Carries order events into the ledger. Each is a compare-and-set on the states of the order's
 * holds, so that events may come again or out of order.
 */
export function createFollowOrders(
  releaseStock: ReleaseStock,
): (events: readonly OrderEvent[], deadline: Deadline) => Promise<void> {
  return async (events, deadline) => {
    const moves = events.flatMap((event): OrderMove[] => {
      const move = moveOf(event);
      if (move === undefined) return [];
      return [{ orderId: event.orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' }];
    });
    // A cancelled order keeps its request record: it leads a retry to the order that exists.
    if (moves.length > 0) await releaseStock.release(moves, { forgetRequests: false }, deadline);
  };
}

/** What an order's state means for its holds; a state that says "was paid" sells them, however late. */
export function moveOf({
  status,
  restock,
}: Pick<OrderEvent, 'status' | 'restock'>): HoldMove | undefined {
  switch (status) {
    case OrderStatus.ORDER_STATUS_CANCELLED:
      return 'RELEASE';
    case OrderStatus.ORDER_STATUS_PAID:
    case OrderStatus.ORDER_STATUS_REFUNDING:
      return 'SELL';
    case OrderStatus.ORDER_STATUS_REFUNDED:
      return restock ? 'RESTOCK' : 'SELL';
    default:
      return undefined;
  }
}
