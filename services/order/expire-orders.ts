import { setTimeout as sleep } from 'node:timers/promises';
import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { literal, type PoolConnection } from '../runtime/mysql.ts';
import { addStep, historySql, type LockedOrder, lockedOrder } from './change-rows.ts';
import type { ExpiryConfig } from './config.ts';
import { stepOf } from './order-changes.ts';
import { type OrderDatabase, StaleSlotMap } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import type { OrderMetrics } from './order-metrics.ts';
import { insertOutboxSql, orderColumns, timeLiteral, toStoredOrder } from './order-rows.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';
import { readOverdue } from './overdue-orders.ts';

export interface ExpireOrdersOptions {
  readonly shards: OrderShards;
  readonly pace: ExpiryConfig;
  readonly log: Log;
  readonly metrics: Pick<
    OrderMetrics,
    'expired' | 'expiryLagSeconds' | 'overdue' | 'overdueProcessing'
  >;
  /** Called with a database's number while it has overdue orders whose payment has begun. */
  readonly onBegun: (database: number) => void;
  /** Called after each commit that closed orders. */
  readonly onCommit: (database: number, changed: readonly Order[]) => void;
}

const { ORDER_STATUS_PENDING: pending } = OrderStatus;
const batchDeadlineMs = 3_000;
/** Buyers come first: between two batches the expirer rests for as long as the last one took. */
const restMsMin = 5;
const restMsMax = 200;

/**
 * Closes the orders of one database whose time is over and whose payment has not begun, in batches,
 * oldest first. Several may run at once: what one has locked, the others pass over.
 */
export function startExpireOrders(options: ExpireOrdersOptions, database: OrderDatabase): Loop {
  const { shards, pace, log, metrics, onBegun } = options;
  let turn = 0;
  return startLoop({
    name: `expire.${database.index}`,
    intervalMs: pace.intervalMs,
    log,
    async run(signal) {
      const overdue = await readOverdue(shards, database, Deadline.after(batchDeadlineMs));
      const label = String(database.index);
      metrics.expiryLagSeconds.set({ database: label }, overdue.oldestAgeMs / 1_000);
      metrics.overdue.set({ database: label, begun: 'false' }, overdue.notBegun);
      metrics.overdue.set({ database: label, begun: 'true' }, overdue.begun);
      metrics.overdueProcessing.set({ database: label }, overdue.processing);
      if (overdue.begun > 0) onBegun(database.index);
      if (overdue.notBegun === 0) return;
      for (let batch = 0; batch < pace.batchesMax && !signal.aborted; batch += 1) {
        const startedMs = performance.now();
        const mayBeMore = await expireBatch(options, database, turn);
        turn += 1;
        if (!mayBeMore) return;
        const tookMs = performance.now() - startedMs;
        const restMs = Math.min(restMsMax, Math.max(restMsMin, tookMs));
        await sleep(restMs, undefined, { signal }).catch(() => undefined);
      }
    },
  });
}

/** @returns whether there may be more; what comes due meanwhile is left to the next look */
async function expireBatch(
  options: ExpireOrdersOptions,
  database: OrderDatabase,
  turn: number,
): Promise<boolean> {
  const { shards, pace, metrics, onCommit } = options;
  const deadline = Deadline.after(batchDeadlineMs);
  const { routes } = shards;
  const allTables = shards.tablesOf(database.index);
  const tables = inTurn(allTables, turn, pace.batchMax);
  const limit = Math.floor(pace.batchMax / tables.length);
  const transactionOptions = { deadline, mapVersion: routes.version, attempts: 1 };
  let expired: DueOrders;
  try {
    expired = await database.transaction(transactionOptions, async (connection, now) => {
      const found = await lockDue(routes, database.index, connection, { tables, limit, now });
      const { due } = found;
      if (due.length === 0) return found;
      for (const one of due) addStep(one, stepOf('expire', pending), now);
      await writeExpired(connection, due, now);
      await hit('order.before_expire_commit', due);
      return found;
    });
  } catch (error) {
    if (!(error instanceof StaleSlotMap)) throw error;
    await shards.refresh(database.index, deadline);
    return false;
  }
  const { due, isLimited } = expired;
  if (due.length > 0) {
    await hit('order.after_expire_commit', due);
    metrics.expired.inc(due.length);
    onCommit(
      database.index,
      due.map(({ stored }) => stored.order),
    );
  }
  return isLimited || tables.length < allTables.length;
}

/** With fewer orders in a batch than tables, the tables take turns. */
function inTurn(tables: readonly string[], turn: number, max: number): string[] {
  const start = (turn * max) % tables.length;
  return [...tables.slice(start), ...tables.slice(0, start)].slice(0, max);
}

interface DueOrders {
  readonly due: LockedOrder[];
  /** Whether a table had as many as were asked for. */
  readonly isLimited: boolean;
}

/** Locks at most `limit` orders in each of the tables. */
async function lockDue(
  routes: SlotRoutes,
  index: number,
  connection: PoolConnection,
  { tables, limit, now }: { tables: readonly string[]; limit: number; now: Date },
): Promise<DueOrders> {
  const rows = await queryEach(
    connection,
    tables.map(
      (table) =>
        `SELECT ${orderColumns} FROM orders_${table} FORCE INDEX (due)
         WHERE status = ${pending} AND payment_begun = 0 AND expire_time <= ${timeLiteral(now)}
         ORDER BY expire_time LIMIT ${limit} FOR UPDATE SKIP LOCKED`,
    ),
  );
  const found = tables.flatMap((table, at) => {
    const here = (rows[at] ?? []).filter((row) => {
      const slot = slotOfOrder(BigInt(row.order_id));
      return routes.databaseOf(slot) === index && tableSuffix(routes.tableOf(slot)) === table;
    });
    return here.length > 0 ? [{ table, rows: here }] : [];
  });
  const isLimited = rows.some(({ length }) => length === limit);
  if (found.length === 0) return { due: [], isLimited };
  const items = await queryEach(
    connection,
    found.map(
      (group) =>
        `SELECT order_id, sku_id, quantity, unit_price_minor FROM order_items_${group.table}
         WHERE order_id IN (${group.rows.map((row) => row.order_id)}) ORDER BY order_id, sku_id`,
    ),
  );
  const due = found.flatMap((group, at) => {
    const ofOrder = Map.groupBy(items[at] ?? [], (item) => item.order_id as string);
    return group.rows.map((row) =>
      lockedOrder(group.table, toStoredOrder(row, ofOrder.get(row.order_id) ?? [])),
    );
  });
  return { due, isLimited };
}

/** One statement for the rows of a table: they all change alike. */
async function writeExpired(
  connection: PoolConnection,
  due: readonly LockedOrder[],
  now: Date,
): Promise<void> {
  const groups = [...Map.groupBy(due, ({ table }) => table)];
  const { status, closeReason } = stepOf('expire', pending);
  const statements = groups.flatMap(([table, group]) => [
    `UPDATE orders_${table}
     SET status = ${status}, close_reason = ${closeReason}, version = version + 1, update_time = ${timeLiteral(now)}
     WHERE order_id IN (${group.map(({ stored }) => stored.order.orderId)})
       AND status = ${pending} AND payment_begun = 0`,
    historySql(table, group),
  ]);
  const [headers] = await connection.query<ResultSetHeader[]>(literal(statements.join(';')));
  for (const [at, [table, group]] of groups.entries()) {
    if (headers[at * 2]?.affectedRows === group.length) continue;
    throw new Error(`orders of table ${table} changed under their locks`);
  }
  const events = due.flatMap((one) => one.events);
  await connection.query(literal(insertOutboxSql(events)));
}

/** Several reads in one round trip; the driver wraps the results only where there are several. */
async function queryEach(
  connection: PoolConnection,
  statements: readonly string[],
): Promise<RowDataPacket[][]> {
  const [results] = await connection.query<RowDataPacket[]>(statements.join(';'));
  return statements.length === 1 ? [results] : (results as unknown as RowDataPacket[][]);
}

async function hit(name: string, expired: readonly LockedOrder[]): Promise<void> {
  if (!failpoints.on || expired.length === 0) return;
  await failpoints.hit(name, { orderIds: expired.map(({ stored }) => stored.order.orderId) });
}
