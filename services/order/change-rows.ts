import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import type { Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { literal, lockWaitLimit, type PoolConnection, serverKindOf } from '../runtime/mysql.ts';
import type { OrderStep } from './order-changes.ts';
import {
  eventWith,
  orderColumns,
  type StoredOrder,
  timeLiteral,
  toStoredOrder,
} from './order-rows.ts';

/** An order that a transaction holds locked, with what is to be written of it. */
export interface LockedOrder {
  readonly table: string;
  stored: StoredOrder;
  /** As it was read; the update compares with it. */
  readonly readVersion: number;
  readonly history: HistoryRow[];
  readonly events: OutboxMessage[];
  beginsPayment: boolean;
}

interface HistoryRow {
  readonly version: number;
  readonly fromStatus: OrderStatus;
  readonly toStatus: OrderStatus;
  readonly closeReason: number;
}

/** How rows that another transaction has locked are treated: waited for, so many milliseconds or as the server does, or passed over. */
export type LockPatience = { readonly ms: number } | 'server' | 'none';

/** Orders by id; an id without a row is in neither part. */
export interface LockedOrders {
  readonly locked: Map<bigint, LockedOrder>;
  /** Orders whose rows another transaction has locked. */
  readonly busy: ReadonlySet<bigint>;
}

/**
 * Locks the rows of orders, tables and ids ascending, so that two transactions never wait for each
 * other in a circle. `idsByTable` is not empty.
 */
export async function lockOrders(
  connection: PoolConnection,
  idsByTable: ReadonlyMap<string, readonly bigint[]>,
  patience: LockPatience,
): Promise<LockedOrders> {
  const kind = serverKindOf(connection);
  const tables = [...idsByTable.keys()].sort();
  const statements = tables.flatMap((table) => {
    const ids = idsByTable.get(table) ?? [];
    const select = `SELECT ${orderColumns} FROM orders_${table} FORCE INDEX (PRIMARY)
       WHERE order_id IN (${ids}) ORDER BY order_id FOR UPDATE`;
    const limited =
      typeof patience === 'object' ? lockWaitLimit(kind, patience.ms, select) : select;
    return [
      patience === 'none' ? `${select} SKIP LOCKED` : limited,
      `SELECT order_id, sku_id, quantity, unit_price_minor FROM order_items_${table}
       WHERE order_id IN (${ids}) ORDER BY order_id, sku_id`,
      ...(patience === 'none'
        ? [`SELECT order_id FROM orders_${table} WHERE order_id IN (${ids})`]
        : []),
    ];
  });
  const [results] = await connection.query<RowDataPacket[][]>(statements.join(';'));
  const each = statements.length / tables.length;
  const locked = new Map<bigint, LockedOrder>();
  const busy = new Set<bigint>();
  for (const [index, table] of tables.entries()) {
    const [rows = [], itemRows = [], existing = []] = results.slice(index * each);
    const items = Map.groupBy(itemRows, (item) => item.order_id as string);
    for (const row of rows) {
      const stored = toStoredOrder(row, items.get(row.order_id) ?? []);
      locked.set(stored.order.orderId, lockedOrder(table, stored));
    }
    for (const row of patience === 'none' ? existing : []) {
      const orderId = BigInt(row.order_id);
      if (!locked.has(orderId)) busy.add(orderId);
    }
  }
  return { locked, busy };
}

export function lockedOrder(table: string, stored: StoredOrder): LockedOrder {
  const readVersion = stored.order.version;
  return { table, stored, readVersion, history: [], events: [], beginsPayment: false };
}

/** Adds one version to an order in memory; `writeChanges` writes it. */
export function addStep(locked: LockedOrder, step: OrderStep, now: Date): void {
  const { order } = locked.stored;
  const { status, closeReason, paymentId, refundedMinor, restock = false } = step;
  const currencyCode = order.total?.currencyCode ?? '';
  const changed: Order = {
    ...order,
    status,
    closeReason,
    version: order.version + 1,
    updateTime: now,
    paymentId: paymentId ?? order.paymentId,
    refunded:
      refundedMinor === undefined ? order.refunded : { currencyCode, minorUnits: refundedMinor },
  };
  locked.stored = { ...locked.stored, order: changed };
  locked.history.push({
    version: changed.version,
    fromStatus: order.status,
    toStatus: status,
    closeReason,
  });
  locked.events.push(eventWith(changed, { restock }));
}

/** Notes in memory that a payment begins, which adds no version. */
export function beginPayment(locked: LockedOrder): void {
  if (locked.stored.paymentBegun) return;
  locked.beginsPayment = true;
  locked.stored = { ...locked.stored, paymentBegun: true };
}

/**
 * Writes what was added to locked orders: rows and history in one round trip, the outbox row is the
 * caller's. @returns whether there was anything to write
 *
 * @throws Error if a row is not as it was read; the lock should have kept it so
 */
export async function writeChanges(
  connection: PoolConnection,
  locked: readonly LockedOrder[],
): Promise<boolean> {
  const updates = locked.filter(
    ({ history, beginsPayment }) => history.length > 0 || beginsPayment,
  );
  if (updates.length === 0) return false;
  const statements = updates.map(updateSql);
  for (const [table, group] of Map.groupBy(updates, (one) => one.table)) {
    const changed = group.filter(({ history }) => history.length > 0);
    if (changed.length > 0) statements.push(historySql(table, changed));
  }
  const [result] = await connection.query<ResultSetHeader | ResultSetHeader[]>(
    literal(statements.join(';')),
  );
  const headers = Array.isArray(result) ? result : [result];
  for (const [index, { stored }] of updates.entries()) {
    if (headers[index]?.affectedRows === 1) continue;
    throw new Error(`order ${stored.order.orderId} changed under its lock`);
  }
  return true;
}

function updateSql({ table, stored, readVersion }: LockedOrder): string {
  const { order, paymentBegun } = stored;
  return (
    `UPDATE orders_${table} SET status=${order.status},close_reason=${order.closeReason},` +
    `version=${order.version},payment_id=${order.paymentId},payment_begun=${paymentBegun ? 1 : 0},` +
    `refunded_minor=${order.refunded?.minorUnits ?? 0n},update_time=${timeLiteral(order.updateTime as Date)}` +
    ` WHERE order_id=${order.orderId} AND version=${readVersion}`
  );
}

/** One statement for the new versions of all orders of a table. */
export function historySql(table: string, changed: readonly LockedOrder[]): string {
  const values = changed.flatMap(({ stored: { order }, history }) =>
    history.map(
      ({ version, fromStatus, toStatus, closeReason }) =>
        `(${order.orderId},${version},${fromStatus},${toStatus},${closeReason},` +
        `${timeLiteral(order.updateTime as Date)})`,
    ),
  );
  return (
    `INSERT INTO order_history_${table} (order_id,version,from_status,to_status,close_reason,create_time)` +
    ` VALUES ${values.join(',')}`
  );
}
