import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { lockWaitLimit } from '../runtime/mysql.ts';
import type { OrderDatabase } from './order-database.ts';
import { requestKeyOf } from './order-draft.ts';
import { asciiLiteral, orderColumns, type StoredOrder, toStoredOrder } from './order-rows.ts';
import type { SlotRoutes } from './order-shards.ts';

/** Names the request that made an order. */
export interface OrderRequestName {
  readonly userId: bigint;
  readonly requestId: string;
}

/** Reads orders and fences of one table by their ids; those that do not exist are absent from the map. */
export async function readOrdersById(
  database: OrderDatabase,
  table: string,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<Map<bigint, StoredOrder>> {
  const found = await readOrdersWhere(database, table, `order_id IN (${orderIds})`, deadline);
  return new Map(found.map((stored) => [stored.order.orderId, stored]));
}

/**
 * Reads orders of one table by the requests that made them, keyed by `requestKeyOf`.
 *
 * With `lockMs`, the read waits so long for transactions that are about to write such an order, so
 * that absence means absence; it fails with `isLockWait` if one takes longer.
 */
export async function readOrdersByRequest(
  database: OrderDatabase,
  table: string,
  names: readonly OrderRequestName[],
  deadline: Deadline,
  { lockMs }: { readonly lockMs?: number } = {},
): Promise<Map<string, StoredOrder>> {
  // OR, not (a, b) IN ((…), …): for that MariaDB uses only the first column of the key.
  const pairs = names.map(
    ({ userId, requestId }) => `(user_id = ${userId} AND request_id = ${asciiLiteral(requestId)})`,
  );
  const where = pairs.join(' OR ');
  const clause = lockMs === undefined ? where : `${where} LOCK IN SHARE MODE`;
  const how = { indexHint: 'FORCE INDEX (user_request)', ...(lockMs && { lockMs }) };
  const found = await readOrdersWhere(database, table, clause, deadline, how);
  return new Map(
    found.map((stored) => [requestKeyOf(stored.order.userId, stored.order.requestId), stored]),
  );
}

/** Reads the orders that a condition selects, in its order, with their items. */
export async function readOrdersWhere(
  database: OrderDatabase,
  table: string,
  where: string,
  deadline: Deadline,
  { indexHint = '', lockMs }: { readonly indexHint?: string; readonly lockMs?: number } = {},
): Promise<StoredOrder[]> {
  const select = `SELECT ${orderColumns} FROM orders_${table} ${indexHint} WHERE ${where}`;
  const rows = await database.query<RowDataPacket[]>(
    lockMs === undefined ? select : (kind) => lockWaitLimit(kind, lockMs, select),
    deadline,
  );
  if (rows.length === 0) return [];
  const items = await itemsOf(database, table, rows, deadline);
  return rows.map((row) => toStoredOrder(row, items.get(row.order_id) ?? []));
}

/** Items never change, so reading them after their orders gives what was there then. */
async function itemsOf(
  database: OrderDatabase,
  table: string,
  rows: readonly RowDataPacket[],
  deadline: Deadline,
): Promise<Map<string, RowDataPacket[]>> {
  const itemRows = await database.query<RowDataPacket[]>(
    `SELECT order_id, sku_id, quantity, unit_price_minor FROM order_items_${table}
     WHERE order_id IN (${rows.map((row) => row.order_id)}) ORDER BY order_id, sku_id`,
    deadline,
  );
  const items = new Map<string, RowDataPacket[]>();
  for (const item of itemRows) {
    const ofOrder = items.get(item.order_id);
    if (ofOrder) ofOrder.push(item);
    else items.set(item.order_id, [item]);
  }
  return items;
}

/** Sorts entries by the table that their slot lives in; all of them are of one database. */
export function byTable<Entry>(
  routes: SlotRoutes,
  entries: readonly Entry[],
  slotOf: (entry: Entry) => number,
): Map<number, Entry[]> {
  const groups = new Map<number, Entry[]>();
  for (const entry of entries) {
    const table = routes.tableOf(slotOf(entry));
    const group = groups.get(table);
    if (group) group.push(entry);
    else groups.set(table, [entry]);
  }
  return groups;
}
