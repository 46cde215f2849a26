import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
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

/** Moves of one transaction at most; the next gathers meanwhile what all partitions bring. */
const movesMax = 500;
const queueDepthMax = 50_000;

/** Carries order events into the ledger. */
export interface FollowOrders {
  /** @throws Refusal or the server's error if an event did not take effect; it may be handled again */
  handle(events: readonly OrderEvent[], deadline: Deadline): Promise<void>;
  close(): Promise<void>;
}

/**
 * Each event is a compare-and-set on the states of the order's holds, so that events may come again
 * or out of order. Partitions share transactions: buyers wait for the SKUs' rows as often as there is one.
 */
export function createFollowOrders(
  releaseStock: Pick<ReleaseStock, 'release'>,
  metrics?: BatcherMetrics,
): FollowOrders {
  // A cancelled order keeps its request record: it leads a retry to the order that exists.
  const options = { forgetRequests: false };
  const batches = new Batcher<OrderMove, undefined>({
    name: 'events_to_ledger',
    entriesMax: movesMax,
    inFlightMax: 1,
    queueDepthMax,
    ...(metrics && { metrics }),
    async run(moves, { deadline }) {
      try {
        await releaseStock.release(moves, options, deadline);
        return moves.map(() => undefined);
      } catch (error) {
        if (error instanceof Refusal || moves.length === 1) throw error;
        // One that cannot be moved must not take the others with it.
        return await Promise.all(
          moves.map((move) =>
            releaseStock.release([move], options, deadline).then(
              () => undefined,
              (cause) => cause as Error,
            ),
          ),
        );
      }
    },
  });
  return {
    async handle(events, deadline) {
      const moves = events.flatMap((event): OrderMove[] => {
        const move = moveOf(event);
        if (move === undefined) return [];
        return [{ orderId: event.orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' }];
      });
      const results = await Promise.allSettled(moves.map((move) => batches.add(move, deadline)));
      const failed = results.find(({ status }) => status === 'rejected');
      if (failed) throw (failed as PromiseRejectedResult).reason;
    },
    close: () => batches.close(),
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
