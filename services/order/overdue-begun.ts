import type { RowDataPacket } from 'mysql2/promise';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import type { OrderDatabase } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import { timeLiteral } from './order-rows.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';

// The table `overdue_begun`: which orders are to be voided and closed, and which copy does so now. Times are those that the
// clocks agree on: nobody's session is voided early because MySQL's clock has stepped.

const { ORDER_STATUS_PENDING: pending } = OrderStatus;

/** Where a walk through the overdue orders of one table stands; undefined at its start. */
export type OverduePosition = { readonly expireTime: string; readonly orderId: string } | undefined;

/** Longer than any claim or wait: a time further ahead was noted while the clocks were ahead, all of them. */
const waitMaxMs = 300_000;

/** A database, and where its orders are. */
export interface Place {
  readonly shards: OrderShards;
  readonly database: OrderDatabase;
}

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

/** What a look at tables found. */
export interface Noted {
  /** Orders that are overdue. */
  readonly read: number;
  /** Those that were not noted before. */
  readonly fresh: number;
  /** Tables that may have more. */
  readonly more: readonly string[];
}

/**
 * Notes down orders of some tables that are overdue and not noted yet; goes on where the last look at each table ended.
 *
 * @param limit orders of one table in one look at most
 * @throws StaleSlotMap, Refusal DEPENDENCY_DOWN or OUTCOME_UNKNOWN (then they are found again), or the server's error
 */
export async function noteOverdue(
  { shards, database }: Place,
  tables: readonly string[],
  positions: Map<string, OverduePosition>,
  limit: number,
  deadline: Deadline,
): Promise<Noted> {
  const options = { deadline, mapVersion: shards.routes.version, attempts: 1 };
  const { pages, fresh } = await database.transaction(options, async (connection, now) => {
    const statements = tables.map((table) => overdueSql(table, now, positions.get(table), limit));
    const found = await queryEach(connection, statements);
    const inserted = await insertMissing(connection, now, found.flat().map(orderIdOf));
    return { pages: found, fresh: inserted };
  });
  for (const [at, table] of tables.entries()) {
    const last = pages[at]?.length === limit ? pages[at].at(-1) : undefined;
    positions.set(table, last && { expireTime: last.at as string, orderId: orderIdOf(last) });
  }
  const more = tables.filter((table) => positions.get(table) !== undefined);
  return { read: pages.flat().length, fresh, more };
}

/**
 * Claims orders whose time to be tried has come, for `leaseMs`; those that are not to be closed any more are removed.
 *
 * @throws StaleSlotMap, Refusal DEPENDENCY_DOWN or OUTCOME_UNKNOWN (then the claims run out), or the server's error
 */
export async function claimOverdue(
  { shards, database }: Place,
  { max, leaseMs }: { readonly max: number; readonly leaseMs: number },
  deadline: Deadline,
): Promise<ClaimedOrder[]> {
  const { routes } = shards;
  const options = { deadline, mapVersion: routes.version, attempts: 1 };
  return await database.transaction(options, async (connection, now) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT order_id, attempts FROM overdue_begun FORCE INDEX (due)
       WHERE next_time <= ${timeLiteral(now)} OR next_time > ${later(now, waitMaxMs)} ORDER BY next_time LIMIT ${max} FOR UPDATE SKIP LOCKED`,
    );
    if (rows.length === 0) return [];
    const open = await stillOverdue(connection, now, routes, database.index, rows.map(orderIdOf));
    const isOpen = (row: RowDataPacket): boolean => open.has(orderIdOf(row));
    const gone = rows.filter((row) => !isOpen(row)).map(orderIdOf);
    const statements = [];
    if (gone.length > 0) statements.push(`DELETE FROM overdue_begun WHERE order_id IN (${gone})`);
    if (open.size > 0) {
      statements.push(
        `UPDATE overdue_begun SET attempts = attempts + 1, next_time = ${later(now, leaseMs)}
         WHERE order_id IN (${[...open]})`,
      );
    }
    await connection.query(statements.join(';'));
    return rows
      .filter(isOpen)
      .map((row) => ({ orderId: BigInt(orderIdOf(row)), attempts: Number(row.attempts) + 1 }));
  });
}

/** Notes what attempts came to. @throws as `claimOverdue` */
export async function settleOverdue(
  { shards, database }: Place,
  attempted: readonly Attempted[],
  deadline: Deadline,
): Promise<void> {
  const done = attempted.filter((one) => one.done).map(({ order }) => order.orderId);
  const options = { deadline, mapVersion: shards.routes.version };
  await database.transaction(options, async (connection, now) => {
    const statements: string[] = [];
    if (done.length > 0) statements.push(`DELETE FROM overdue_begun WHERE order_id IN (${done})`);
    for (const one of attempted) {
      if (one.done) continue;
      const { order, againMs, isProcessing } = one;
      // A claim that has run out meanwhile is another copy's, with one attempt more.
      statements.push(
        `UPDATE overdue_begun SET next_time = ${later(now, againMs)}, processing = ${isProcessing ? 1 : 0}
         WHERE order_id = ${order.orderId} AND attempts = ${order.attempts}`,
      );
    }
    await connection.query(statements.join(';'));
  });
}

function overdueSql(table: string, now: Date, after: OverduePosition, limit: number): string {
  // Written as a range of the index and a remainder: MariaDB reads a row comparison from the start.
  const onward =
    after === undefined
      ? ''
      : `AND expire_time >= '${after.expireTime}'
         AND (expire_time > '${after.expireTime}' OR order_id > ${after.orderId})`;
  return `SELECT order_id, CAST(expire_time AS CHAR) AS at FROM orders_${table} FORCE INDEX (due)
     WHERE status = ${pending} AND payment_begun = 1 AND expire_time <= ${timeLiteral(now)} ${onward}
     ORDER BY expire_time, order_id LIMIT ${limit}`;
}

/** Read first, so that nobody waits for the rows of those that are being voided. @returns how many were missing */
async function insertMissing(
  connection: PoolConnection,
  now: Date,
  orderIds: readonly string[],
): Promise<number> {
  if (orderIds.length === 0) return 0;
  const [known] = await connection.query<RowDataPacket[]>(
    `SELECT order_id FROM overdue_begun WHERE order_id IN (${orderIds})`,
  );
  const isKnown = new Set(known.map(orderIdOf));
  const rows = orderIds
    .filter((orderId) => !isKnown.has(orderId))
    .map((orderId) => `(${orderId}, ${timeLiteral(now)})`);
  if (rows.length === 0) return 0;
  await connection.query(
    `INSERT INTO overdue_begun (order_id, next_time) VALUES ${rows}
     ON DUPLICATE KEY UPDATE order_id = VALUES(order_id)`,
  );
  return rows.length;
}

/** Those of the orders that live here, are still PENDING and whose time is over. */
async function stillOverdue(
  connection: PoolConnection,
  now: Date,
  routes: SlotRoutes,
  index: number,
  orderIds: readonly string[],
): Promise<Set<string>> {
  const here = orderIds.filter((id) => routes.databaseOf(slotOfOrder(BigInt(id))) === index);
  const groups = Map.groupBy(here, (id) => tableSuffix(routes.tableOf(slotOfOrder(BigInt(id)))));
  const statements = [...groups].map(
    ([table, ids]) =>
      `SELECT order_id FROM orders_${table} FORCE INDEX (PRIMARY)
       WHERE order_id IN (${ids}) AND status = ${pending} AND expire_time <= ${timeLiteral(now)}`,
  );
  return new Set((await queryEach(connection, statements)).flat().map(orderIdOf));
}

/** Several reads in one round trip; the driver wraps the results only where there are several. */
async function queryEach(
  connection: PoolConnection,
  statements: readonly string[],
): Promise<RowDataPacket[][]> {
  if (statements.length === 0) return [];
  const [results] = await connection.query<RowDataPacket[]>(statements.join(';'));
  return statements.length === 1 ? [results] : (results as unknown as RowDataPacket[][]);
}

function orderIdOf(row: RowDataPacket): string {
  return row.order_id as string;
}

function later(now: Date, ms: number): string {
  return timeLiteral(new Date(now.getTime() + ms));
}
