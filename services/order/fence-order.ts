import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import { type FenceOutcome, fenceOrders } from './fence-orders.ts';
import { slotOfOrder } from './order-id.ts';
import type { OrderReader } from './order-reader.ts';
import type { StoredOrder } from './order-rows.ts';
import type { OrderShards } from './order-shards.ts';

/** What is under an id after it was to be fenced. */
export type Fence =
  | { readonly kind: 'fenced' }
  | { readonly kind: 'exists'; readonly stored: StoredOrder };

/** Makes sure that no order can be written under an id. @throws Refusal OUTCOME_UNKNOWN */
export type FenceOrder = (orderId: bigint, deadline: Deadline) => Promise<Fence>;

export interface FenceOrderOptions {
  readonly shards: OrderShards;
  readonly reader: OrderReader;
  readonly queueDepthMax: number;
  readonly metrics?: BatcherMetrics;
}

const entriesMax = 100;

/** Fences single orders; those that come together share a transaction. */
export function createFenceOrder({ shards, reader, queueDepthMax, metrics }: FenceOrderOptions): {
  fenceOrder: FenceOrder;
  close(): Promise<void>;
} {
  const batcher = new Batcher<bigint, FenceOutcome>({
    name: 'order_fence',
    entriesMax,
    inFlightMax: 1,
    queueDepthMax,
    keyOf: (orderId) => shards.databaseOf(slotOfOrder(orderId)),
    async run(orderIds, { deadline }) {
      const { routes } = shards;
      const databaseOf = (orderId: bigint): number => routes.databaseOf(slotOfOrder(orderId));
      const database = databaseOf(orderIds[0] as bigint);
      // Slots may have moved while the ids waited; what lives elsewhere by now stays undecided.
      const here = orderIds.filter((orderId) => databaseOf(orderId) === database);
      const outcomes = await fenceOrders(shards, routes, database, here, deadline);
      return orderIds.map((orderId) => outcomes.get(orderId) ?? 'undecided');
    },
    ...(metrics ? { metrics } : {}),
  });

  async function fenceOrder(orderId: bigint, deadline: Deadline): Promise<Fence> {
    try {
      const outcome = await batcher.add(orderId, deadline);
      if (outcome === 'fenced') return { kind: 'fenced' };
      const stored = outcome === 'exists' ? await reader.byId(orderId, deadline) : undefined;
      if (stored !== undefined) return { kind: 'exists', stored };
    } catch (cause) {
      throw new Refusal('OUTCOME_UNKNOWN', 'The order could not be fenced', { cause });
    }
    throw new Refusal('OUTCOME_UNKNOWN', 'The order is being written');
  }

  return { fenceOrder, close: () => batcher.close() };
}
