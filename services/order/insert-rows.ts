import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import type { NewOrder } from './new-order.ts';
import { type SlotRoutes, tableSuffix } from './order-shards.ts';
import { insertItemsSql, insertOrdersSql } from './order-statements.ts';
import { byTable } from './read-orders.ts';

/** Writes the rows of orders and items of one database; fails at the first row that is refused. */
export async function insertRows(
  routes: SlotRoutes,
  connection: PoolConnection,
  batch: readonly NewOrder[],
  orders: ReadonlyMap<NewOrder, Order>,
): Promise<void> {
  const rows = batch.map((entry) => ({
    order: orders.get(entry) as Order,
    fingerprintHex: entry.draft.fingerprintHex,
    slot: entry.draft.slot,
  }));
  const groups = [...byTable(routes, rows, ({ slot }) => slot)].sort(([a], [b]) => a - b);
  const statements = groups.flatMap(([table, group]) => [
    insertOrdersSql(tableSuffix(table), group),
    insertItemsSql(tableSuffix(table), group),
  ]);
  // One round trip for all tables; the server stops at the first statement that fails.
  await connection.query(statements.join(';'));
}
