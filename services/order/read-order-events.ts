import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import { isHidden } from './order.ts';
import { slotOfOrder } from './order-id.ts';
import { orderEventOf } from './order-rows.ts';
import { type OrderShards, tableSuffix } from './order-shards.ts';
import { byTable, readOrdersById } from './read-orders.ts';

/**
 * Reads what orders are now, each as the event that told it, ascending by order; those that do not exist
 * are omitted. A database that does not answer costs its own orders only.
 */
export async function readOrderEvents(
  shards: OrderShards,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<{ readonly events: OrderEvent[]; readonly unavailable: bigint[] }> {
  const { routes } = shards;
  const events: OrderEvent[] = [];
  const unavailable: bigint[] = [];
  const byDatabase = Map.groupBy(new Set(orderIds), (id) => routes.databaseOf(slotOfOrder(id)));
  const reads = [...byDatabase].map(async ([index, ids]) => {
    try {
      events.push(...(await readOfDatabase(shards, index, ids, deadline)));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      unavailable.push(...ids);
    }
  });
  await Promise.all(reads);
  events.sort((a, b) => (a.orderId < b.orderId ? -1 : 1));
  return { events, unavailable };
}

/** One table after the other, in its turn: buyers' batches need the connections. */
async function readOfDatabase(
  shards: OrderShards,
  index: number,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<OrderEvent[]> {
  const database = shards.database(index);
  return await database.inTurn(async () => {
    const events: OrderEvent[] = [];
    for (const [table, ids] of byTable(shards.routes, orderIds, slotOfOrder)) {
      const found = await readOrdersById(database, tableSuffix(table), ids, deadline);
      for (const { order } of found.values()) {
        if (!isHidden(order.status)) events.push(orderEventOf(order, { restock: false }));
      }
    }
    return events;
  }, deadline);
}
