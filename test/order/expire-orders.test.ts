import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { RowDataPacket } from 'mysql2/promise';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import {
  byVersion,
  type OrderBench,
  type OrderProcess,
  orderRequest,
  startOrderBench,
} from './support.ts';

const { ORDER_STATUS_PENDING: pending, ORDER_STATUS_CANCELLED: cancelled } = OrderStatus;
const { CLOSE_REASON_EXPIRED: expired } = CloseReason;
const price = { currencyCode: 'EUR', minorUnits: 100n };
/** Small batches and short pauses, so that a few orders take several transactions. */
const expiry = { intervalMs: 50, batchMax: 10, batchesMax: 5, voidsInFlightMax: 16 };

let bench: OrderBench;
let order: OrderProcess;
let other: OrderProcess;

before(async () => {
  bench = await startOrderBench('expiry');
  order = await bench.start({ expiry });
  other = await bench.start({ expiry });
});
afterEach(() => {
  failpoints.clear();
  bench.payment.onClose = () => 'CLOSED';
});
after(() => bench.stop());

let users = 0n;
async function createMany(count: number, { begun = false } = {}): Promise<bigint[]> {
  const requests = Array.from({ length: count }, () => {
    users += 1n;
    return orderRequest(users, 'expire');
  });
  const { results } = await order.client.batchCreateOrders({ requests });
  const made = results.map(({ outcome }) => {
    assert.ok(outcome?.$case === 'created');
    return outcome.value.order;
  });
  if (begun) {
    await Promise.all(
      made.map((one) =>
        order.client.beginPayment({ orderId: one?.orderId ?? 0n, userId: one?.userId ?? 0n }),
      ),
    );
  }
  return made.map((one) => one?.orderId ?? 0n);
}

/** Ends the orders' time, all in one moment for each table. */
async function endTime(orderIds: readonly bigint[], ago = '1 SECOND'): Promise<void> {
  const places = Map.groupBy(orderIds, (orderId) => {
    const { database, table } = order.shards.placeOfOrder(orderId);
    return `${database.index}/${table}`;
  });
  for (const [place, ids] of places) {
    const [database = '', table = ''] = place.split('/');
    await bench.sql(
      Number(database),
      `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) - INTERVAL ${ago}
       WHERE order_id IN (${ids})`,
    );
  }
}

const rowsOf = (orderIds: readonly bigint[]): Promise<RowDataPacket[]> =>
  bench.orderRows(`order_id IN (${orderIds})`);

async function allClosed(orderIds: readonly bigint[]): Promise<boolean> {
  return (await rowsOf(orderIds)).every(({ status }) => status === cancelled);
}

/** Each order closed once, for its time: the row, one row of history, one event. */
async function assertExpiredOnce(orderIds: readonly bigint[]): Promise<void> {
  for (const row of await rowsOf(orderIds)) {
    assert.deepEqual([row.status, row.close_reason, row.version], [cancelled, expired, 2]);
  }
  for (const orderId of orderIds) {
    const { transitions } = await order.client.getOrderHistory({ orderId, userId: 0n });
    const steps = transitions.map((one) => [one.fromStatus, one.toStatus, one.closeReason]);
    assert.deepEqual(steps.slice(1), [[pending, cancelled, expired]]);
  }
  const published = (orderId: bigint) => byVersion(bench.eventsOf(orderId));
  await eventually(
    () => orderIds.every((orderId) => published(orderId).length >= 2),
    'the events are published',
  );
  for (const orderId of orderIds) {
    const events = published(orderId).map(({ version, status }) => [version, status]);
    assert.deepEqual(events, [
      [1, pending],
      [2, cancelled],
    ]);
    assert.equal(published(orderId)[1]?.items.length, 1);
  }
}

/** The samples of a metric in both processes. */
async function samples(name: string): Promise<number[]> {
  const pages = [order, other].map(async ({ metricsPort }) => {
    const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
    const lines = (await response.text()).split('\n');
    return lines.filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  });
  return (await Promise.all(pages)).flat().map((line) => Number(line.split(' ').at(-1)));
}

/** The sum of a metric that both processes have. */
async function metric(name: string): Promise<number> {
  const found = await samples(name);
  assert.ok(found.length >= 2, `${name} has ${found.length} samples`);
  return found.reduce((sum, value) => sum + value, 0);
}

test('two expirers close a hundred orders, each once; those in time and paid ones stay', async () => {
  const late = await createMany(100);
  const [inTime = 0n, paid = 0n] = await createMany(2);
  await order.client.recordPayment({ orderId: paid, paymentId: 1n, amount: price });
  const before = await metric('order_expired_total');
  await endTime([...late, paid]);
  await eventually(() => allClosed(late), 'all are closed');
  await assertExpiredOnce(late);
  // A commit is seen before the process that made it hears of it, and counts.
  const counted = async () => (await metric('order_expired_total')) - before;
  await eventually(async () => (await counted()) >= 100, 'each is counted');
  assert.equal(await counted(), 100);
  const [pendingRow] = await rowsOf([inTime]);
  const [paidRow] = await rowsOf([paid]);
  assert.equal(pendingRow?.status, pending);
  assert.equal(paidRow?.status, OrderStatus.ORDER_STATUS_PAID);
  // One figure for each process, database, and whether a payment has begun, measured before each round.
  const none = Array.from({ length: 8 }, () => 0);
  await eventually(
    async () => isDeepStrictEqual(await samples('order_overdue'), none),
    'both processes see no overdue order any more',
  );
});

for (const moment of ['before', 'after'] as const) {
  test(`an expirer that breaks ${moment} a commit half-way leaves each order closed once`, async () => {
    const late = await createMany(60);
    let hits = 0;
    failpoints.set(`order.${moment}_expire_commit`, () => {
      hits += 1;
      if (hits % 2 === 0) throw new Error('broken here');
    });
    await endTime(late);
    await eventually(() => allClosed(late), 'all are closed');
    assert.ok(hits >= 2, `${hits} hits`);
    failpoints.clear();
    await assertExpiredOnce(late);
  });
}

test('a locked order is passed over and closed later; the others do not wait for it', async () => {
  const late = await createMany(30);
  const stuck = late[3] as bigint;
  const { database, table } = order.shards.placeOfOrder(stuck);
  await endTime(late.slice(4));
  await bench.sql(database.index, 'START TRANSACTION');
  try {
    await bench.sql(
      database.index,
      `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) - INTERVAL 1 HOUR
       WHERE order_id = ${stuck}`,
    );
    await eventually(() => allClosed(late.slice(4)), 'the others are closed');
  } finally {
    await bench.sql(database.index, 'COMMIT');
  }
  await eventually(() => allClosed([stuck]), 'it is closed too');
  await assertExpiredOnce([stuck]);
});

test('begun orders are voided first, each closed once', async () => {
  const begun = await createMany(40, { begun: true });
  const openAtClose = new Map<bigint, boolean>();
  bench.payment.onClose = async (orderId) => {
    const first = !openAtClose.has(orderId);
    if (first) openAtClose.set(orderId, false);
    // An expirer that does not wait for this answer has the time to close the order.
    await sleep(100);
    const [row] = await rowsOf([orderId]);
    if (first) openAtClose.set(orderId, row?.status === pending);
    return 'CLOSED' as const;
  };
  await endTime(begun);
  await eventually(() => allClosed(begun), 'all are closed');
  await assertExpiredOnce(begun);
  for (const orderId of begun) assert.ok(bench.payment.closed.includes(orderId));
  for (const orderId of begun) assert.equal(openAtClose.get(orderId), true);
});

test('a begun order whose payment was paid is not closed, and is PAID when payment tells it', async () => {
  const [orderId = 0n] = await createMany(1, { begun: true });
  bench.payment.onClose = () => 'PAID';
  await endTime([orderId]);
  await eventually(() => bench.payment.closed.includes(orderId), 'payment was asked');
  const rest = await createMany(5, { begun: true });
  bench.payment.onClose = (asked) => (asked === orderId ? 'PAID' : 'CLOSED');
  await endTime(rest);
  await eventually(() => allClosed(rest), 'later ones are closed');
  assert.equal((await rowsOf([orderId]))[0]?.status, pending);
  const { record } = await order.client.recordPayment({ orderId, paymentId: 9n, amount: price });
  assert.equal(record, 1);
  assert.equal((await rowsOf([orderId]))[0]?.status, OrderStatus.ORDER_STATUS_PAID);
});

test('orders that cannot be voided block neither those behind them nor those without payment', async () => {
  const stuck = new Set(await createMany(120, { begun: true }));
  const behind = await createMany(10, { begun: true });
  const plain = await createMany(20);
  let broken = true;
  bench.payment.onClose = (orderId) => {
    if (broken && stuck.has(orderId)) throw new Refusal('ILLEGAL_TRANSITION', 'not now');
    return 'CLOSED';
  };
  await endTime([...stuck], '1 HOUR');
  await endTime([...behind, ...plain]);
  await eventually(() => allClosed([...behind, ...plain]), 'the others are closed');
  for (const { status } of await rowsOf([...stuck])) assert.equal(status, pending);
  await eventually(async () => (await metric('order_overdue')) > 0, 'they are seen as overdue');
  assert.ok((await metric('order_expiry_lag_seconds')) > 3_000);
  broken = false;
  // The longer the others took, the longer these wait before they are tried again.
  const bounds = { withinMs: 90_000 };
  await eventually(() => allClosed([...stuck]), 'they are closed in the end', bounds);
  await assertExpiredOnce([...stuck]);
});

test('without payment orders are taken, read, cancelled and expired as long as none has begun', async () => {
  // The others reach payment, and would expire what this one does not.
  await Promise.all([order.stop(), other.stop()]);
  order = await bench.start({ expiry, paymentAddresses: ['127.0.0.1:1'] });
  const response = await fetch(`http://127.0.0.1:${order.metricsPort}/readyz`);
  assert.equal(response.status, 200);
  const [late = 0n, mine = 0n] = await createMany(2);
  await order.client.cancelOrder({ orderId: mine, userId: 0n });
  await endTime([late]);
  await eventually(() => allClosed([late, mine]), 'both are closed');
  const [begun = 0n] = await createMany(1, { begun: true });
  await assert.rejects(order.client.cancelOrder({ orderId: begun, userId: 0n }), {
    reason: 'DEPENDENCY_DOWN',
  });
});
