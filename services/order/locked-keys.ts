import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { isLockWait } from '../runtime/mysql.ts';
import type { NewOrder } from './new-order.ts';
import type { OrderDatabase } from './order-database.ts';
import { asciiLiteral } from './order-rows.ts';
import { type SlotRoutes, tableSuffix } from './order-shards.ts';
import { byTable } from './read-orders.ts';

/**
 * Which of some new orders have a key that another transaction has locked, such as one that is about to
 * write the same request. It waits for none: parts with a locked key are halved down to it, so that one
 * in 500 costs about 20 short statements.
 *
 * @throws Refusal DEPENDENCY_DOWN
 */
export async function findLocked(
  routes: SlotRoutes,
  database: OrderDatabase,
  entries: readonly NewOrder[],
  deadline: Deadline,
): Promise<Set<NewOrder>> {
  const locked = new Set<NewOrder>();
  for (const [table, group] of byTable(routes, entries, ({ draft }) => draft.slot)) {
    await halve(database, tableSuffix(table), group, locked, deadline);
  }
  return locked;
}

async function halve(
  database: OrderDatabase,
  table: string,
  part: readonly NewOrder[],
  locked: Set<NewOrder>,
  deadline: Deadline,
): Promise<void> {
  if (!(await isLocked(database, table, part, deadline))) return;
  if (part.length === 1) {
    locked.add(part[0] as NewOrder);
    return;
  }
  const middle = Math.ceil(part.length / 2);
  await halve(database, table, part.slice(0, middle), locked, deadline);
  await halve(database, table, part.slice(middle), locked, deadline);
}

/** The statements lock what they find for themselves, for as long as they last. */
async function isLocked(
  database: OrderDatabase,
  table: string,
  part: readonly NewOrder[],
  deadline: Deadline,
): Promise<boolean> {
  const requests = part.map(({ draft: { userId, requestId } }) => {
    return `(user_id = ${userId} AND request_id = ${asciiLiteral(requestId)})`;
  });
  const ids = part.map(({ orderId }) => orderId);
  // A column that is in no index, and an order: without them a small table would be scanned and locked.
  const byRequest = `SELECT order_id, status FROM orders_${table} FORCE INDEX (user_request)
    WHERE ${requests.join(' OR ')} ORDER BY user_id, request_id FOR UPDATE NOWAIT`;
  const byId = `SELECT order_id, status FROM orders_${table} FORCE INDEX (PRIMARY)
    WHERE order_id IN (${ids}) ORDER BY order_id FOR UPDATE NOWAIT`;
  try {
    for (const sql of [byRequest, byId]) await database.query<RowDataPacket[]>(sql, deadline);
    return false;
  } catch (error) {
    if (isLockWait(error)) return true;
    throw error;
  }
}
