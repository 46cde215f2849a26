import type { RowDataPacket } from 'mysql2/promise';
import type { OrderPicture } from '../audit/order-picture.ts';
import { readPictures } from '../audit/read-pictures.ts';
import {
  closeReasonName,
  hold,
  order as orderState,
  payment as paymentState,
  refund as refundState,
  settlement,
  statusName,
} from '../audit/states.ts';
import { CouldNotLook } from '../could-not-look.ts';
import { firstOrderIdAt } from '../order-id.ts';
import { tableSuffixes } from '../stores.ts';
import { type Pruning, rest, stepRowsMax } from './pruning.ts';
import { remove, type WritableDatabase } from './writable-database.ts';

const closedStates: readonly number[] = [
  orderState.cancelled,
  orderState.rejected,
  orderState.aborted,
];

/**
 * Moves old closed orders, fences and refunded orders into the archive of their database, one row each, in the transaction
 * that deletes them. Their given-back holds go after that: should it stop in between, the next run finds them without an order.
 */
export async function archiveOrders(pruning: Pruning): Promise<void> {
  const { stores, progress } = pruning;
  for (const [index] of stores.orders.entries()) {
    for (const suffix of tableSuffixes(stores)) {
      progress.show(`orders of database ${index}, table ${suffix}`);
      await archiveTable(pruning, index, suffix);
    }
  }
}

async function archiveTable(pruning: Pruning, index: number, suffix: string): Promise<void> {
  const { stores, cutoffs } = pruning;
  const database = stores.orders[index] as (typeof stores.orders)[number];
  const newest = [cutoffs.closed, cutoffs.refunded].sort().at(-1) as string;
  // An order changes after it was made, so younger ids need not be read. Bounded by rows read, not by rows found.
  const end = firstOrderIdAt(Date.parse(`${newest.replace(' ', 'T')}Z`));
  for (let after = '-1'; ; ) {
    const rows = await database.rows(
      `SELECT order_id, status, CONCAT(update_time) FROM orders_${suffix} FORCE INDEX (PRIMARY)
       WHERE order_id > ${after} AND order_id < ${end} ORDER BY order_id LIMIT ${stepRowsMax}`,
    );
    if (rows.length === 0) return;
    after = String(rows.at(-1)?.[0]);
    const old = rows.filter(
      ([, status, updateTime]) =>
        (closedStates.includes(Number(status)) && String(updateTime) < cutoffs.closed) ||
        (Number(status) === orderState.refunded && String(updateTime) < cutoffs.refunded),
    );
    const pictures = await readPictures(stores, { orderIds: old.map(([id]) => String(id)) });
    const may = [...pictures.values()].filter((picture) => mayGo(pruning, picture));
    for (const some of inSteps(may)) await archive(pruning, index, suffix, some);
  }
}

/** Whether nothing about the order is open any more; a reason to stay is told. */
function mayGo({ keep }: Pruning, { order, holds, payments, refunds }: OrderPicture): boolean {
  if (order === undefined) return false;
  const isRefunded = order.status === orderState.refunded;
  const ownsStock = holds.some(
    ({ state }) =>
      state === hold.held || (!isRefunded && (state === hold.sold || state === hold.restocked)),
  );
  if (ownsStock) {
    keep('it owns stock (the audit names it)');
    return false;
  }
  const isPayable = payments.some(
    (payment) =>
      payment.status === paymentState.pending || payment.settlement === settlement.awaiting,
  );
  const isGoingBack = refunds.some(({ status }) => status !== refundState.succeeded);
  if (isPayable || isGoingBack) {
    keep('a payment or refund of it is not settled');
    return false;
  }
  return true;
}

/** Groups orders so that a step removes a bounded number of rows. */
function* inSteps(pictures: readonly OrderPicture[]): Generator<OrderPicture[]> {
  let step: OrderPicture[] = [];
  let rows = 0;
  for (const picture of pictures) {
    const own = 1 + picture.items.length + picture.history.length;
    if (rows + own > stepRowsMax && step.length > 0) {
      yield step;
      step = [];
      rows = 0;
    }
    step.push(picture);
    rows += own;
  }
  if (step.length > 0) yield step;
}

async function archive(
  pruning: Pruning,
  index: number,
  suffix: string,
  pictures: readonly OrderPicture[],
): Promise<void> {
  const { writable, count } = pruning;
  const ids = pictures.map(({ orderId }) => orderId);
  const givenBack = pictures.reduce((sum, { holds }) => sum + holds.filter(isGivenBack).length, 0);
  if (writable === undefined) {
    count('orders', pictures.length);
    count(
      'order_items',
      sumOf(pictures, ({ items }) => items.length),
    );
    count(
      'order_history',
      sumOf(pictures, ({ history }) => history.length),
    );
    count('stock_holds', givenBack);
    return;
  }
  const moved = await moveToArchive(writable.orders[index] as WritableDatabase, suffix, ids);
  count('orders', moved.orders);
  count('order_items', moved.items);
  count('order_history', moved.history);
  const holds = await writable.stock.step((connection) =>
    remove(
      connection,
      // These states count in no figure, so the SKUs' rows need not be locked.
      `DELETE FROM stock_holds WHERE order_id IN (${ids}) AND state IN (${hold.released},${hold.fenced})`,
    ),
  );
  count('stock_holds', holds);
  await rest(pruning);
}

function sumOf(pictures: readonly OrderPicture[], rows: (picture: OrderPicture) => number): number {
  return pictures.reduce((sum, picture) => sum + rows(picture), 0);
}

export function isGivenBack({ state }: { readonly state: number }): boolean {
  return state === hold.released || state === hold.fenced;
}

async function moveToArchive(
  database: WritableDatabase,
  suffix: string,
  ids: readonly string[],
): Promise<{ orders: number; items: number; history: number }> {
  return await database.step(async (connection) => {
    // As every transaction on orders: it keeps a move of slots away, which would copy what is deleted here.
    const [map] = await connection.query<RowDataPacket[]>(
      'SELECT UTC_TIMESTAMP(3) AS now FROM slot_map WHERE id = 1 LOCK IN SHARE MODE',
    );
    const now = map[0]?.now as Date | undefined;
    if (now === undefined) throw new CouldNotLook('An order database has no slot map any more.');
    const [orders] = await connection.query<RowDataPacket[]>(
      `SELECT order_id, user_id, request_id, status, close_reason, version, total_minor, currency, payment_id, refunded_minor,
         CONCAT(create_time) AS create_time, CONCAT(expire_time) AS expire_time, CONCAT(update_time) AS update_time
       FROM orders_${suffix} WHERE order_id IN (${ids}) ORDER BY order_id FOR UPDATE`,
    );
    const [items] = await connection.query<RowDataPacket[]>(
      `SELECT * FROM order_items_${suffix} WHERE order_id IN (${ids}) ORDER BY order_id, sku_id`,
    );
    const [history] = await connection.query<RowDataPacket[]>(
      `SELECT order_id, version, from_status, to_status, close_reason, CONCAT(create_time) AS create_time
       FROM order_history_${suffix} WHERE order_id IN (${ids}) ORDER BY order_id, version`,
    );
    const values = orders.map((row) => archivedRow(row, items, history, now));
    if (values.length === 0) return { orders: 0, items: 0, history: 0 };
    await connection.query(
      `INSERT INTO archived_orders (order_id, user_id, status, close_reason, version, total_minor, currency, payment_id,
         refunded_minor, update_time, archive_time, body) VALUES ?`,
      [values],
    );
    const found = orders.map((row) => row.order_id as string);
    const condition = `WHERE order_id IN (${found})`;
    return {
      items: await remove(connection, `DELETE FROM order_items_${suffix} ${condition}`),
      history: await remove(connection, `DELETE FROM order_history_${suffix} ${condition}`),
      orders: await remove(connection, `DELETE FROM orders_${suffix} ${condition}`),
    };
  });
}

function archivedRow(
  row: RowDataPacket,
  items: readonly RowDataPacket[],
  history: readonly RowDataPacket[],
  now: Date,
): unknown[] {
  const isOwn = (other: RowDataPacket): boolean => other.order_id === row.order_id;
  const body = {
    orderId: row.order_id,
    userId: row.user_id,
    requestId: (row.request_id as Buffer | null)?.toString('latin1') ?? null,
    status: statusName(row.status),
    closeReason: row.close_reason ? closeReasonName(row.close_reason) : null,
    createTime: row.create_time,
    expireTime: row.expire_time,
    items: items.filter(isOwn).map((item) => ({
      skuId: item.sku_id,
      quantity: item.quantity,
      unitPriceMinor: item.unit_price_minor,
    })),
    history: history.filter(isOwn).map((step) => ({
      version: step.version,
      from: statusName(step.from_status),
      to: statusName(step.to_status),
      closeReason: step.close_reason ? closeReasonName(step.close_reason) : null,
      time: step.create_time,
    })),
  };
  return [
    ...[row.order_id, row.user_id, row.status, row.close_reason, row.version, row.total_minor],
    ...[row.currency, row.payment_id, row.refunded_minor, row.update_time, now],
    JSON.stringify(body),
  ];
}
