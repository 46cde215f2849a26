import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { NotTried, SomeFailed } from '../runtime/some-failed.ts';
import type { HoldMove } from './hold-states.ts';
import type { OrderMove } from './ledger-moves.ts';
import { movesApart } from './moves-apart.ts';
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
/** What one part of a failed batch may take, and the search for those at fault: other partitions wait. */
const partMs = 1_500;
const searchMs = 2_000;
/** Orders that failed lately, remembered so that they do not fail with others again. */
const troubledMax = 10_000;

/** Carries order events into the ledger. */
export interface FollowOrders {
  /** @throws SomeFailed naming the events that did not take effect; they may be handled again */
  handle(events: readonly OrderEvent[], deadline: Deadline): Promise<void>;
  close(): Promise<void>;
}

/**
 * Each event is a compare-and-set on the states of the order's holds, so that events may come again
 * or out of order. Partitions share transactions: buyers wait for the SKUs' rows as often as there is one.
 * An order that failed has transactions apart from the others until it succeeds.
 */
export function createFollowOrders(
  releaseStock: Pick<ReleaseStock, 'release'>,
  metrics?: BatcherMetrics,
): FollowOrders {
  const apart = movesApart(releaseStock);
  const troubled = new Set<bigint>();
  const batches = new Batcher<OrderMove, undefined>({
    name: 'events_to_ledger',
    entriesMax: movesMax,
    inFlightMax: 1,
    queueDepthMax,
    keyOf: ({ orderId }) => (troubled.has(orderId) ? 'apart' : 'together'),
    ...(metrics && { metrics }),
    async run(moves, { deadline }) {
      const bounds = { wholeMs: deadline.leftMs(), partMs, searchMs };
      const { failed, untried, away } = await apart.handle(moves, bounds);
      const notTried = new Set(untried);
      return moves.map((move) => {
        if (notTried.has(move)) return new NotTried(away);
        const failure = failed.get(move);
        remember(troubled, move.orderId, failure !== undefined);
        return failure as Error | undefined;
      });
    },
  });
  return {
    async handle(events, deadline) {
      const moves = events.map((event): OrderMove | undefined => {
        const move = moveOf(event);
        if (move === undefined) return undefined;
        return { orderId: event.orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' };
      });
      const results = await Promise.allSettled(
        moves.map((move) => (move === undefined ? undefined : batches.add(move, deadline))),
      );
      const failures = results.flatMap((result, at): [number, unknown][] =>
        result.status === 'rejected' ? [[at, result.reason]] : [],
      );
      if (failures.length > 0) throw new SomeFailed(new Map(failures));
    },
    close: () => batches.close(),
  };
}

function remember(troubled: Set<bigint>, orderId: bigint, isTroubled: boolean): void {
  troubled.delete(orderId);
  if (!isTroubled) return;
  const [oldest] = troubled;
  if (troubled.size >= troubledMax && oldest !== undefined) troubled.delete(oldest);
  troubled.add(orderId);
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
