import type { Order } from '../../gen/sluice/order/v1/order.ts';
import { lockWaitLimit, type PoolConnection, serverKindOf } from '../runtime/mysql.ts';
import type { NewOrder } from './new-order.ts';
import { type SlotRoutes, tableSuffix } from './order-shards.ts';
import { insertItemsSql, insertOrdersSql } from './order-statements.ts';
import { byTable } from './read-orders.ts';

/**
 * How long the orders of one table are waited for where the server can bound it (MariaDB): far longer
 * than it takes to write them, shorter than a lock wait. MySQL waits for a lock for a second.
 */
const insertMsMax = 300;

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
  const kind = serverKindOf(connection);
  const statements = groups.flatMap(([table, group]) => [
    lockWaitLimit(kind, insertMsMax, insertOrdersSql(tableSuffix(table), group)),
    insertItemsSql(tableSuffix(table), group),
  ]);
  // One round trip for all tables; the server stops at the first statement that fails.
  await connection.query(statements.join(';'));
}
