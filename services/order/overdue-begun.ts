import type { RowDataPacket } from 'mysql2/promise';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import type { OrderDatabase } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';

// The table `overdue_begun`: which orders are to be voided and closed, and which copy does so now.

const { ORDER_STATUS_PENDING: pending } = OrderStatus;

/** Where a walk through the overdue orders of one table stands; undefined at its start. */
export type OverduePosition = { readonly expireTime: string; readonly orderId: string } | undefined;

/** An order that this copy has claimed. */
export interface ClaimedOrder {
  readonly orderId: bigint;
  /** Attempts so far, this one included; tells this claim from a later one. */
  readonly attempts: number;
}

/** What an attempt came to: the order needs no other one, or is to be tried again in so many milliseconds. */
export type Attempted =
  | { readonly order: ClaimedOrder; readonly done: true }
  | {
      readonly order: ClaimedOrder;
      readonly done: false;
      readonly againMs: number;
      readonly isProcessing: boolean;
    };

/**
 * Notes down orders that are overdue and not noted yet; goes on where the last look at each table ended.
 *
 * @param limit orders of one table in one look at most
 * @returns how many were noted, and whether a table may have more
 * @throws Refusal DEPENDENCY_DOWN, or the server's error
 */
export async function noteOverdue(
  database: OrderDatabase,
  tables: readonly string[],
  positions: Map<string, OverduePosition>,
  limit: number,
  deadline: Deadline,
): Promise<{ noted: number; mayBeMore: boolean }> {
  const statements = tables.map((table) => overdueSql(table, positions.get(table), limit));
  const pages = await queryEach(database, statements, deadline);
  for (const [at, table] of tables.entries()) {
    const rows = pages[at] ?? [];
    const last = rows.length === limit ? rows.at(-1) : undefined;
    const position = last && { expireTime: last.at as string, orderId: last.order_id as string };
    positions.set(table, position);
  }
  const ids = pages.flat().map((row) => row.order_id as string);
  const mayBeMore = pages.some(({ length }) => length === limit);
  if (ids.length === 0) return { noted: 0, mayBeMore };
  const known = await database.query<RowDataPacket[]>(
    `SELECT order_id FROM overdue_begun WHERE order_id IN (${ids})`,
    deadline,
  );
  const isKnown = new Set(known.map((row) => row.order_id as string));
  const fresh = ids.filter((orderId) => !isKnown.has(orderId));
  if (fresh.length > 0) {
    const rows = fresh.map((orderId) => `(${orderId}, UTC_TIMESTAMP(3))`);
    await database.query(
      `INSERT INTO overdue_begun (order_id, next_time) VALUES ${rows}
       ON DUPLICATE KEY UPDATE order_id = VALUES(order_id)`,
      deadline,
    );
  }
  return { noted: fresh.length, mayBeMore };
}

/**
 * Claims orders whose time to be tried has come, for `leaseMs`; those that are not to be closed any more are removed.
 *
 * @throws StaleSlotMap, Refusal DEPENDENCY_DOWN or OUTCOME_UNKNOWN (then the claims run out), or the server's error
 */
export async function claimOverdue(
  shards: OrderShards,
  database: OrderDatabase,
  { max, leaseMs }: { readonly max: number; readonly leaseMs: number },
  deadline: Deadline,
): Promise<ClaimedOrder[]> {
  const { routes } = shards;
  const options = { deadline, mapVersion: routes.version, attempts: 1 };
  return await database.transaction(options, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT order_id, attempts FROM overdue_begun FORCE INDEX (due) WHERE next_time <= UTC_TIMESTAMP(3)
       ORDER BY next_time LIMIT ${max} FOR UPDATE SKIP LOCKED`,
    );
    if (rows.length === 0) return [];
    const ids = rows.map((row) => row.order_id as string);
    const open = await stillOpen(connection, routes, database.index, ids);
    const gone = ids.filter((orderId) => !open.has(orderId));
    const statements = [
      ...(gone.length > 0 ? [`DELETE FROM overdue_begun WHERE order_id IN (${gone})`] : []),
      ...(open.size > 0
        ? [
            `UPDATE overdue_begun SET attempts = attempts + 1, next_time = ${inMs(leaseMs)}
             WHERE order_id IN (${[...open]})`,
          ]
        : []),
    ];
    await connection.query(statements.join(';'));
    return rows
      .filter((row) => open.has(row.order_id))
      .map((row) => ({ orderId: BigInt(row.order_id), attempts: Number(row.attempts) + 1 }));
  });
}

/** Notes what attempts came to, in one round trip. @throws Refusal DEPENDENCY_DOWN, or the server's error */
export async function settleOverdue(
  database: OrderDatabase,
  attempted: readonly Attempted[],
  deadline: Deadline,
): Promise<void> {
  const done = attempted.filter((one) => one.done).map(({ order }) => order.orderId);
  const statements =
    done.length > 0 ? [`DELETE FROM overdue_begun WHERE order_id IN (${done})`] : [];
  for (const one of attempted) {
    if (one.done) continue;
    const { order, againMs, isProcessing } = one;
    // A claim that has run out meanwhile is another copy's, with one attempt more.
    statements.push(
      `UPDATE overdue_begun SET next_time = ${inMs(againMs)}, processing = ${isProcessing ? 1 : 0}
       WHERE order_id = ${order.orderId} AND attempts = ${order.attempts}`,
    );
  }
  await database.query(statements.join(';'), deadline);
}

function overdueSql(table: string, after: OverduePosition, limit: number): string {
  // Written as a range of the index and a remainder: MariaDB reads a row comparison from the start.
  const onward =
    after === undefined
      ? ''
      : `AND expire_time >= '${after.expireTime}'
         AND (expire_time > '${after.expireTime}' OR order_id > ${after.orderId})`;
  return `SELECT order_id, CAST(expire_time AS CHAR) AS at FROM orders_${table} FORCE INDEX (due)
     WHERE status = ${pending} AND payment_begun = 1 AND expire_time <= UTC_TIMESTAMP(3) ${onward}
     ORDER BY expire_time, order_id LIMIT ${limit}`;
}

/** Those of the orders that live here and are still PENDING. */
async function stillOpen(
  connection: PoolConnection,
  routes: SlotRoutes,
  index: number,
  orderIds: readonly string[],
): Promise<Set<string>> {
  const here = orderIds.filter((id) => routes.databaseOf(slotOfOrder(BigInt(id))) === index);
  const groups = Map.groupBy(here, (id) => tableSuffix(routes.tableOf(slotOfOrder(BigInt(id)))));
  if (groups.size === 0) return new Set();
  const statements = [...groups].map(
    ([table, ids]) =>
      `SELECT order_id FROM orders_${table} FORCE INDEX (PRIMARY)
       WHERE order_id IN (${ids}) AND status = ${pending}`,
  );
  const [results] = await connection.query<RowDataPacket[]>(statements.join(';'));
  const rows = statements.length === 1 ? results : (results as unknown as RowDataPacket[][]).flat();
  return new Set(rows.map((row) => row.order_id as string));
}

/** Several reads in one round trip; the driver wraps the results only where there are several. */
async function queryEach(
  database: OrderDatabase,
  statements: readonly string[],
  deadline: Deadline,
): Promise<RowDataPacket[][]> {
  if (statements.length === 0) return [];
  const results = await database.query<RowDataPacket[]>(statements.join(';'), deadline);
  return statements.length === 1 ? [results] : (results as unknown as RowDataPacket[][]);
}

function inMs(ms: number): string {
  return `UTC_TIMESTAMP(3) + INTERVAL ${Math.round(ms) * 1_000} MICROSECOND`;
}
