import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { InsertOutcome, NewOrder } from './new-order.ts';
import type { OrderDatabase } from './order-database.ts';
import type { StoredOrder } from './order-rows.ts';
import { type SlotRoutes, tableSuffix } from './order-shards.ts';
import { byTable, readOrdersById, readOrdersByRequest } from './read-orders.ts';

/** Reads, after a duplicate key, which of the entries have their answer in the table already. */
export async function findTaken(
  routes: SlotRoutes,
  database: OrderDatabase,
  entries: readonly NewOrder[],
  deadline: Deadline,
): Promise<Map<NewOrder, InsertOutcome>> {
  const taken = new Map<NewOrder, InsertOutcome>();
  for (const [table, group] of byTable(routes, entries, ({ draft }) => draft.slot)) {
    const suffix = tableSuffix(table);
    const ids = group.map(({ orderId }) => orderId);
    const drafts = group.map(({ draft }) => draft);
    const byRequest = await readOrdersByRequest(database, suffix, drafts, deadline);
    const byId = await readOrdersById(database, suffix, ids, deadline);
    for (const entry of group) {
      const outcome = outcomeOf(byRequest.get(entry.draft.requestKey), byId.get(entry.orderId));
      if (outcome !== undefined) taken.set(entry, outcome);
    }
  }
  return taken;
}

/**
 * An order of the same request decides, whatever id it has. Else the id is a fence's, or it is an
 * order of somebody else.
 */
export function outcomeOf(
  ofRequest: StoredOrder | undefined,
  ofId: StoredOrder | undefined,
): InsertOutcome | undefined {
  if (ofRequest !== undefined) return { kind: 'exists', stored: ofRequest };
  if (ofId === undefined) return undefined;
  const fenced = ofId.order.status === OrderStatus.ORDER_STATUS_ABORTED;
  return { kind: fenced ? 'dead' : 'idTaken' };
}
