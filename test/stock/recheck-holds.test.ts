import assert from 'node:assert/strict';
import { after, afterEach, test } from 'node:test';
import { createConnection } from 'mysql2/promise';
import { Refusal } from '../../services/runtime/refusals.ts';
import { readConfig } from '../../services/stock/config.ts';
import type { Resolution } from '../../services/stock/order-gateway.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import {
  atRest,
  breakRow,
  holdsOf,
  newSku,
  reservation,
  reserve,
  type StockSystem,
  shortAge,
  startStockSystem,
} from './support.ts';

const system = await startStockSystem('recheck', {
  ...shortAge,
  SLUICE_STOCK_RECHECK_AGE_SECONDS: '1',
});
after(() => system.close());
afterEach(() => {
  system.orders.resolve = () => 'LIVE';
});

type Reservation = ReturnType<typeof reservation>;

/** Makes orders that live, and waits until the sweep, which looks at each once, has found them alive. */
async function sweptOrders(orders: readonly Reservation[]): Promise<void> {
  const { results } = await system.stock.reserveStock({ reservations: [...orders] });
  assert(results.every(({ outcome }) => outcome?.$case === 'reserved'));
  await eventually(async () => {
    const [rows] = await system.pool.query('SELECT order_id FROM sweep_cursor');
    const cursor = BigInt((rows as { order_id: string }[])[0]?.order_id ?? 0);
    return orders.every(({ orderId }) => orderId <= cursor);
  }, 'the sweep has passed the orders');
}

/** From now on the order service knows better about some orders. */
function changed(fates: readonly (readonly [Reservation, Resolution])[]): void {
  const byId = new Map(fates.map(([{ orderId }, fate]) => [orderId, fate]));
  system.orders.resolve = (orderId) => byId.get(orderId) ?? 'LIVE';
}

async function mended(move: 'release' | 'sell'): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${system.metricsPort}/metrics`)).text();
  const line = text.split('\n').find((one) => {
    return one.startsWith('stock_recheck_mended_total{') && one.includes(`move="${move}"`);
  });
  return Number(line?.split(' ').at(-1) ?? 0);
}

async function figures({ stock }: StockSystem, skuId: bigint): Promise<bigint[]> {
  const { sku } = await stock.getSku({ skuId });
  return [sku?.available ?? -1n, sku?.held ?? -1n, sku?.sold ?? -1n];
}

async function untilHold(order: Reservation, skuId: bigint, state: number): Promise<void> {
  await eventually(
    async () => (await holdsOf(system.pool, order.orderId))[0] === `${skuId}:${state}`,
    `the hold of order ${order.orderId} comes to state ${state}`,
  );
}

test('without an event, a cancelled order gives back and a paid one sells; a pending one stays', async () => {
  const skuId = await newSku(system, 10n);
  const [pending, undecided] = [reservation([skuId]), reservation([skuId])];
  const [cancelled, paid] = [reservation([skuId], { quantity: 3 }), reservation([skuId])];
  await sweptOrders([pending, undecided, cancelled, paid]);
  assert.deepEqual(await figures(system, skuId), [4n, 6n, 0n]);
  changed([
    [undecided, 'UNDECIDED'],
    [cancelled, 'DEAD'],
    [paid, 'SOLD'],
  ]);
  await untilHold(cancelled, skuId, 3);
  await untilHold(paid, skuId, 2);
  // What is settled is not asked for again, and what is not is looked at in every pass.
  const before = system.orders.asked.length;
  const again = (orderId: bigint): number =>
    system.orders.asked.slice(before).filter((asked) => asked === orderId).length;
  await eventually(() => again(pending.orderId) >= 3, 'the pending order is looked at again');
  assert(again(undecided.orderId) >= 2);
  assert.deepEqual([again(cancelled.orderId), again(paid.orderId)], [0, 0]);
  assert.deepEqual(await holdsOf(system.pool, pending.orderId), [`${skuId}:1`]);
  assert.deepEqual(await holdsOf(system.pool, undecided.orderId), [`${skuId}:1`]);
  assert.equal(await atRest(system, skuId), 7, 'the gate has what the ledger has');
  assert.deepEqual(await figures(system, skuId), [7n, 2n, 1n]);
  assert.deepEqual([await mended('release'), await mended('sell')], [1, 1]);
});

test('what the event does in the same moment is credited once', async () => {
  const skuId = await newSku(system, 30n);
  const orders = Array.from({ length: 20 }, () => reservation([skuId]));
  await sweptOrders(orders);
  const dead = new Map(orders.map((order) => [order.orderId, order]));
  const releases: Promise<unknown>[] = [];
  system.orders.resolve = (orderId) => {
    const order = dead.get(orderId);
    if (order === undefined) return 'LIVE';
    const { userId, requestId } = order;
    const release = { orderId, userId, requestId, skuIds: [skuId] };
    releases.push(system.stock.releaseStock({ releases: [release] }));
    return 'DEAD';
  };
  for (const order of orders) await untilHold(order, skuId, 3);
  await Promise.all(releases);
  assert(releases.length >= orders.length);
  assert.equal(await atRest(system, skuId), 30);
  assert.deepEqual(await figures(system, skuId), [30n, 0n, 0n]);
});

test('a request whose order was cancelled is still led to that order', async () => {
  const skuId = await newSku(system, 10n);
  const order = reservation([skuId]);
  await sweptOrders([order]);
  changed([[order, 'DEAD']]);
  await untilHold(order, skuId, 3);
  await atRest(system, skuId);
  const retry = await reserve(system, { ...order, orderId: order.orderId + 1n });
  assert.equal(retry.$case, 'adopted', 'the record of the request still names the order');
  assert.deepEqual(await holdsOf(system.pool, order.orderId + 1n), []);
});

test('while the order service is away nothing is lost, and then it goes on', async () => {
  const skuId = await newSku(system, 10n);
  const [cancelled, paid] = [reservation([skuId]), reservation([skuId])];
  await sweptOrders([cancelled, paid]);
  let refused = 0;
  system.orders.resolve = () => {
    refused += 1;
    throw new Refusal('DEPENDENCY_DOWN');
  };
  await eventually(() => refused >= 3, 'it is asked for in vain, again and again');
  assert.deepEqual(await holdsOf(system.pool, cancelled.orderId), [`${skuId}:1`]);
  changed([
    [cancelled, 'DEAD'],
    [paid, 'SOLD'],
  ]);
  await untilHold(cancelled, skuId, 3);
  await untilHold(paid, skuId, 2);
  assert.equal(await atRest(system, skuId), 9);
});

test('an order whose hold cannot be moved keeps no other', async () => {
  const [broken, skuId] = [await newSku(system, 10n), await newSku(system, 10n)];
  const [stuck, dead] = [reservation([broken]), reservation([skuId])];
  await sweptOrders([stuck, dead]);
  await breakRow(system.pool, 'UPDATE skus SET sold = sold + 1 WHERE sku_id = ?', [broken]);
  try {
    changed([
      [stuck, 'DEAD'],
      [dead, 'DEAD'],
    ]);
    await untilHold(dead, skuId, 3);
    assert.deepEqual(await holdsOf(system.pool, stuck.orderId), [`${broken}:1`]);
  } finally {
    await breakRow(system.pool, 'UPDATE skus SET sold = sold - 1 WHERE sku_id = ?', [broken]);
  }
  await untilHold(stuck, broken, 3);
  for (const each of [broken, skuId]) assert.equal(await atRest(system, each), 10);
});

test('an order whose SKU is locked keeps no other, and is mended when the lock ends', async () => {
  const [locked, skuId] = [await newSku(system, 10n), await newSku(system, 10n)];
  const [stuck, dead] = [reservation([locked]), reservation([skuId])];
  await sweptOrders([stuck, dead]);
  const holder = await createConnection({ uri: mysqlUrl, database: system.database });
  try {
    await holder.query('START TRANSACTION');
    await holder.query('SELECT sku_id FROM skus WHERE sku_id = ? FOR UPDATE', [locked]);
    changed([
      [stuck, 'DEAD'],
      [dead, 'DEAD'],
    ]);
    await untilHold(dead, skuId, 3);
    assert.deepEqual(await holdsOf(system.pool, stuck.orderId), [`${locked}:1`]);
  } finally {
    await holder.end();
  }
  await untilHold(stuck, locked, 3);
  for (const each of [locked, skuId]) assert.equal(await atRest(system, each), 10);
});

test('each hold is looked at when its order comes of age, also while the passes rest; what is open then, again', async () => {
  const skuId = await newSku(system, 10n);
  const rest = 'UPDATE recheck_cursor SET due_time = NOW(3) + INTERVAL 390 SECOND WHERE id = 1';
  await system.pool.query(rest);
  const [cancelled, pending] = [reservation([skuId]), reservation([skuId])];
  changed([[cancelled, 'DEAD']]);
  const { results } = await system.stock.reserveStock({ reservations: [cancelled, pending] });
  assert(results.every(({ outcome }) => outcome?.$case === 'reserved'));
  await untilHold(cancelled, skuId, 3);
  const asked = (): number =>
    system.orders.asked.filter((orderId) => orderId === pending.orderId).length;
  await eventually(() => asked() >= 3, 'the open one is asked for again');
  changed([[pending, 'SOLD']]);
  await untilHold(pending, skuId, 2);
  const [rows] = await system.pool.query(
    'SELECT id FROM recheck_cursor WHERE id = 1 AND due_time > NOW(3) + INTERVAL 100 SECOND',
  );
  assert.equal((rows as unknown[]).length, 1, 'no pass has come by');
  await system.pool.query('UPDATE recheck_cursor SET due_time = NOW(3)');
});

test('by default a hold is looked at a minute after its order must be closed', () => {
  const ageOf = (variables: Record<string, string>): number =>
    readConfig({ SLUICE_DEMO: '1', ...variables }).recheckAgeMs / 1_000;
  assert.equal(ageOf({}), 960);
  assert.equal(ageOf({ SLUICE_ORDER_EXPIRY_SECONDS: '30' }), 90);
  const both = { SLUICE_ORDER_EXPIRY_SECONDS: '30', SLUICE_STOCK_RECHECK_AGE_SECONDS: '7' };
  assert.equal(ageOf(both), 7);
});

const slow = { timeout: 300_000 };
test(
  'many holds that missed their events are mended page by page, by two processes in turns',
  slow,
  async () => {
    const copy = await system.startCopy();
    const skuId = await newSku(system, 5_000n);
    const orders: Reservation[] = [];
    for (const length of [500, 500, 300]) {
      const some = Array.from({ length }, () => reservation([skuId]));
      await sweptOrders(some);
      orders.push(...some);
    }
    const calls = system.orders.calls.length;
    changed(orders.map((order, index) => [order, index % 2 === 0 ? 'DEAD' : 'SOLD']));
    await eventually(async () => (await figures(system, skuId))[1] === 0n, 'nothing is held', {
      // A turn is followed by a rest of four times its length.
      withinMs: 150_000,
    });
    assert.deepEqual(await figures(system, skuId), [4_350n, 0n, 650n]);
    assert.equal(await atRest(system, skuId), 4_350);
    const sizes = system.orders.calls.slice(calls).map(({ length }) => length);
    assert(Math.max(...sizes) <= 500, `pages of ${sizes.join(', ')}`);
    await copy.stop();
  },
);
