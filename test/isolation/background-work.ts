import assert from 'node:assert/strict';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Pool } from '../../services/runtime/mysql.ts';
import { holdState } from '../../services/stock/hold-states.ts';
import { firstOrderIdAt, orderIdTimeMs } from '../../services/stock/order-clock.ts';
import { skuKeys } from '../../services/stock/redis-keys.ts';
import { eventually } from '../support/eventually.ts';
import { orderShards, type System } from '../support/system.ts';

// What goes on behind the buyers: each check gives one of the loops something to do, and waits until it is done.

/** Seconds at the usual pace; far less than a clock steps by. */
const bounds = { withinMs: 45_000, everyMs: 50 };
const { ORDER_STATUS_PENDING: pending, ORDER_STATUS_CANCELLED: cancelled } = OrderStatus;
const units = 1n;

let numbers = 0n;
/** An id that an order of this moment could have. */
function newOrderId(): bigint {
  numbers += 1n;
  return firstOrderIdAt(Date.now()) + (numbers << 6n);
}

async function figures(pool: Pool, sql: string, values: unknown[] = []): Promise<bigint[]> {
  const [rows] = await pool.query(sql, values);
  return (rows as { figure: string | number | null }[]).map(({ figure }) => BigInt(figure ?? 0));
}

async function untilHoldIs({ stockPool }: System, orderId: bigint, state: number, what: string) {
  const sql = 'SELECT state AS figure FROM stock_holds WHERE order_id = ?';
  await eventually(
    async () => (await figures(stockPool, sql, [orderId]))[0] === BigInt(state),
    what,
    bounds,
  );
}

/** The sweep: units that are held for an order which never came to be come back. */
export async function expectSweep(system: System, skuId: bigint): Promise<void> {
  let orderId = 0n;
  await eventually(
    async () => {
      orderId = newOrderId();
      const reservation = {
        ...{ orderId, userId: orderId, requestId: `lost ${orderId}` },
        fingerprint: Buffer.alloc(16, 7),
        lines: [{ skuId, quantity: Number(units) }],
      };
      const { results } = await system.stock.reserveStock({ reservations: [reservation] });
      return results[0]?.outcome?.$case === 'reserved';
    },
    'units are reserved',
    bounds,
  );
  await untilHoldIs(system, orderId, holdState.RELEASED, 'the sweep gives them back');
}

/** The keeper: a line that passed its gate and was never posted is barred. */
export async function expectKeeper(system: System, skuId: bigint): Promise<void> {
  const { pending: list, entries, avail } = skuKeys(skuId);
  const orderId = newOrderId();
  await system.redis
    .multi()
    .decr(avail)
    .hset(entries, String(orderId), `${units}:${orderId}:left`)
    .zadd(list, Date.now(), String(orderId))
    .exec();
  await untilHoldIs(system, orderId, holdState.FENCED, 'the keeper bars the line');
}

/** The relays: what waits for publication now is published. */
export async function expectRelays({ orderPools }: System): Promise<void> {
  for (const pool of orderPools) {
    const [last = 0n] = await figures(pool, 'SELECT MAX(id) AS figure FROM outbox');
    const sql = `SELECT COUNT(*) AS figure FROM outbox WHERE id <= ${last}`;
    const isPublished = async () => (await figures(pool, sql))[0] === 0n;
    await eventually(isPublished, 'the outbox is published', bounds);
  }
}

/** The walk over holds that come of age goes on, and the watermark with it, which is not in the future. */
export async function expectRecheck({ stockPool }: System): Promise<void> {
  const edge = 'SELECT order_id AS figure FROM recheck_cursor WHERE id = 2';
  const mark = 'SELECT order_id AS figure FROM watermark WHERE id = 1';
  for (const sql of [edge, mark]) {
    const [before = 0n] = await figures(stockPool, sql);
    const hasMoved = async () => ((await figures(stockPool, sql))[0] ?? 0n) > before;
    await eventually(hasMoved, `it moves on: ${sql}`, bounds);
  }
  const [watermark = 0n] = await figures(stockPool, mark);
  assert.ok(orderIdTimeMs(watermark) <= Date.now(), 'the watermark is not in the future');
}

/** The expiry closes an order whose time is over, and leaves those alone that have time left. */
export async function expectExpiry(
  { orderPools }: System,
  { overdue, inTime }: { overdue: bigint; inTime: bigint },
): Promise<void> {
  for (const sql of tables((table) => {
    return `UPDATE orders_${table} SET expire_time = ? WHERE order_id = ${overdue}`;
  })) {
    for (const pool of orderPools) await pool.query(sql, [new Date(Date.now() - 1_000)]);
  }
  const isClosed = async () => (await statusOf(orderPools, overdue)) === cancelled;
  await eventually(isClosed, 'the order whose time is over is closed', bounds);
  assert.equal(await statusOf(orderPools, inTime), pending, 'an order with time left stays');
}

async function statusOf(pools: readonly Pool[], orderId: bigint): Promise<number | undefined> {
  for (const sql of tables((table) => {
    return `SELECT status AS figure FROM orders_${table} WHERE order_id = ${orderId}`;
  })) {
    for (const pool of pools) {
      const [status] = await figures(pool, sql);
      if (status !== undefined) return Number(status);
    }
  }
  return undefined;
}

function tables(sqlOf: (table: string) => string): string[] {
  return Array.from({ length: orderShards.tables }, (_, table) =>
    sqlOf(String(table).padStart(2, '0')),
  );
}
