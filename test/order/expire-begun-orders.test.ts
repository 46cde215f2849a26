import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { ChangeOrder } from '../../services/order/change-order.ts';
import { startExpireBegunOrders } from '../../services/order/expire-begun-orders.ts';
import type { ClosedPayment } from '../../services/order/payment-gateway.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const pace = { intervalMs: 50, batchMax: 10, batchesMax: 5, voidsInFlightMax: 4 };

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('begun');
  order = await bench.start();
});
afterEach(() => {
  bench.payment.onClose = () => 'CLOSED';
});
after(() => bench.stop());

let users = 100n;
/** Orders whose payment has begun and whose time is over, all in one moment for each table. */
async function overdue(count: number): Promise<bigint[]> {
  const requests = Array.from({ length: count }, () => {
    users += 1n;
    return orderRequest(users, 'overdue');
  });
  const { results } = await order.client.batchCreateOrders({ requests });
  const made = results.map(({ outcome }) => {
    assert.ok(outcome?.$case === 'created');
    return outcome.value.order;
  });
  const ids = made.map((one) => one?.orderId ?? 0n);
  await Promise.all(
    made.map((one) =>
      order.client.beginPayment({ orderId: one?.orderId ?? 0n, userId: one?.userId ?? 0n }),
    ),
  );
  await endTime(ids);
  return ids;
}

async function endTime(orderIds: readonly bigint[]): Promise<void> {
  const places = Map.groupBy(orderIds, (orderId) => {
    const { database, table } = order.shards.placeOfOrder(orderId);
    return `${database.index}/${table}`;
  });
  for (const [place, ids] of places) {
    const [database = '', table = ''] = place.split('/');
    const sql = `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) - INTERVAL 1 HOUR
      WHERE order_id IN (${ids})`;
    await bench.sql(Number(database), sql);
  }
}

async function allClosed(orderIds: readonly bigint[]): Promise<boolean> {
  const rows = await bench.orderRows(`order_id IN (${orderIds})`);
  return rows.every(({ status }) => status === OrderStatus.ORDER_STATUS_CANCELLED);
}

/** What is noted of orders, in both databases. */
async function noted(orderIds: readonly bigint[]) {
  const sql = `SELECT order_id, attempts, processing,
      TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(3), next_time) / 1e6 AS seconds
    FROM overdue_begun WHERE order_id IN (${orderIds})`;
  return (await Promise.all([bench.sql(0, sql), bench.sql(1, sql)])).flat();
}

/** The samples of a metric of the first process, summed over its labels. */
async function metric(name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${order.metricsPort}/metrics`)).text();
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`));
  assert.ok(lines.length > 0, name);
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

test('an order that is void is closed within five seconds, or leaves the lane to the changes of buyers', async () => {
  // The process's own expiry leaves the order alone.
  bench.payment.onClose = () => 'PAID';
  const { order: made } = await order.client.createOrder(orderRequest(1n, 'begun'));
  const { orderId = 0n } = made ?? {};
  await order.client.beginPayment({ orderId, userId: 1n });
  const leftMs: number[] = [];
  const changeOrder = (async ({ orderId: changed }, deadline) => {
    if (changed === orderId) leftMs.push(deadline.leftMs());
    throw new Refusal('NOT_FOUND');
  }) satisfies ChangeOrder;
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) WHERE order_id = ${orderId}`,
  );
  const log = createLog('test', 'silent');
  const expired = createMetrics('test').counter('order_expired_total', 'Orders closed');
  const expiry = startExpireBegunOrders({
    ...{ shards: order.shards, pace, changeOrder, log, metrics: { expired } },
    payment: { closePayment: async () => 'CLOSED', takesBackground: () => true },
  });
  try {
    await eventually(() => leftMs.length > 0, 'the order is to be closed');
  } finally {
    await expiry.stop();
  }
  for (const left of leftMs) assert.ok(left > 0 && left <= 5_000, `${left} ms`);
});

test('three copies void each begun order once, and none of them waits for the slowest', async () => {
  const others = [await bench.start(), await bench.start()];
  const held = Promise.withResolvers<void>();
  const ids = await overdueWhile(async (orderIds) => {
    const slow = new Set(orderIds.slice(0, 3));
    bench.payment.onClose = async (orderId): Promise<ClosedPayment> => {
      // Longer than three copies need to look for themselves.
      await sleep(200);
      if (slow.has(orderId)) await held.promise;
      return 'CLOSED';
    };
  });
  try {
    await eventually(() => allClosed(ids.slice(3)), 'all but the slowest are closed');
    assert.equal(await allClosed(ids.slice(0, 3)), false);
  } finally {
    held.resolve();
  }
  await eventually(() => allClosed(ids), 'all are closed');
  const asked = bench.payment.closed.filter((orderId) => ids.includes(orderId));
  // A claim that a pause of the machine outlasted, or an answer that came too late, is repeated.
  assert.ok(asked.length <= ids.length * 1.1, `${asked.length} voids of ${ids.length} orders`);
  for (const one of others) await one.stop();
});

/** Overdue orders; `prepare` is told their ids before their time is over. */
async function overdueWhile(prepare: (ids: readonly bigint[]) => Promise<void>) {
  bench.payment.onClose = () => assert.fail('asked too early');
  const requests = Array.from({ length: 90 }, () => {
    users += 1n;
    return orderRequest(users, 'prepared');
  });
  const { results } = await order.client.batchCreateOrders({ requests });
  const ids: bigint[] = [];
  for (const { outcome } of results) {
    assert.ok(outcome?.$case === 'created');
    const { orderId = 0n, userId = 0n } = outcome.value.order ?? {};
    await order.client.beginPayment({ orderId, userId });
    ids.push(orderId);
  }
  await prepare(ids);
  await endTime(ids);
  return ids;
}

test('orders in processing keep none of the others from being closed, and are asked about every few minutes', async () => {
  const processing = new Set<bigint>();
  const ids = await overdueWhile(async (orderIds) => {
    for (const orderId of orderIds.slice(0, 10)) processing.add(orderId);
    bench.payment.onClose = (orderId) => (processing.has(orderId) ? 'PROCESSING' : 'CLOSED');
  });
  const [stuck, rest] = [ids.slice(0, 10), ids.slice(10)];
  await eventually(() => allClosed(rest), 'the others are closed');
  await eventually(
    async () => (await noted(stuck)).every((row) => row.processing === 1),
    'it is noted that they are in processing',
  );
  const rows = await noted(stuck);
  const seconds = rows.map((row) => Number(row.seconds));
  assert.ok(Math.min(...seconds) > 90 && Math.max(...seconds) < 300, `${seconds}`);
  // Each at another moment.
  assert.ok(Math.max(...seconds) - Math.min(...seconds) > 5, `${seconds}`);
  for (const { status } of await bench.orderRows(`order_id IN (${stuck})`)) {
    assert.equal(status, OrderStatus.ORDER_STATUS_PENDING);
  }
  await eventually(async () => (await metric('order_overdue_processing')) === 10, 'they are shown');
  // Nothing can be done about them: the lag speaks of what should have been done.
  await eventually(
    async () => (await metric('order_expiry_lag_seconds')) < 60,
    'they do not count as late',
  );
  const asked = () => bench.payment.closed.filter((orderId) => processing.has(orderId)).length;
  assert.equal(asked(), 10);
  // The banks decide: five debits are refused, five are paid.
  const refused = stuck.slice(0, 5);
  bench.payment.onClose = (orderId) => (refused.includes(orderId) ? 'CLOSED' : 'PAID');
  for (const database of [0, 1]) {
    await bench.sql(database, 'UPDATE overdue_begun SET next_time = UTC_TIMESTAMP(3)');
  }
  await eventually(() => allClosed(refused), 'the refused ones are closed');
  const amount = { currencyCode: 'EUR', minorUnits: 100n };
  for (const [index, orderId] of stuck.slice(5).entries()) {
    await order.client.recordPayment({ orderId, paymentId: BigInt(index + 1), amount });
  }
  await eventually(async () => (await noted(stuck)).length === 0, 'nothing is left to be done');
  assert.equal(await metric('order_overdue_processing'), 0);
});

test('a copy that stops in the middle of its work leaves it to the others within seconds', async () => {
  // No answer of payment will ever reach it: it claims as many as it has places for, and no more.
  bench.payment.onClose = () => 'PAID';
  const silent = Promise.withResolvers<ClosedPayment>();
  const asked = new Set<bigint>();
  const frozen = await bench.start(
    { expiry: { ...pace, voidsInFlightMax: 2 } },
    {
      payment: {
        closePayment(orderId) {
          asked.add(orderId);
          return silent.promise;
        },
        takesBackground: () => true,
        refundOrder: async () => true,
        close: () => undefined,
      },
    },
  );
  try {
    // Both copies claim some of them.
    const ids = await overdue(40);
    await eventually(() => asked.size >= 4, 'it has claimed some');
    bench.payment.onClose = () => 'CLOSED';
    await eventually(() => allClosed(ids), 'the other closes them all', { withinMs: 30_000 });
  } finally {
    silent.resolve('PAID');
  }
  await frozen.stop();
});

test('orders whose payment does not answer when their time is over do not cut off buyers who cancel', async () => {
  const stuck = new Set<bigint>();
  const held = Promise.withResolvers<void>();
  await overdueWhile(async (orderIds) => {
    for (const orderId of orderIds) stuck.add(orderId);
    bench.payment.onClose = async (orderId): Promise<ClosedPayment> => {
      if (stuck.has(orderId)) await held.promise;
      return 'CLOSED';
    };
  });
  try {
    const text = async () =>
      await (await fetch(`http://127.0.0.1:${order.metricsPort}/metrics`)).text();
    const isOpen = /circuit_breaker_state\{name="payment\.(expire|close)",service="order"\} 2/;
    await eventually(async () => isOpen.test(await text()), 'a circuit opens');
    for (let count = 0; count < 10; count += 1) {
      users += 1n;
      const { order: made } = await order.client.createOrder(orderRequest(users, 'cancels'));
      const { orderId = 0n } = made ?? {};
      await order.client.beginPayment({ orderId, userId: users });
      const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: users });
      assert.equal(cancelled?.status, OrderStatus.ORDER_STATUS_CANCELLED);
    }
  } finally {
    held.resolve();
  }
});

test('an order that was put off while the clocks were ahead is closed all the same', async () => {
  bench.payment.onClose = () => 'PROCESSING';
  const ids = await overdue(1);
  await eventually(async () => (await noted(ids))[0]?.processing === 1, 'it is in processing');
  bench.payment.onClose = () => 'CLOSED';
  for (const database of [0, 1]) {
    await bench.sql(
      database,
      'UPDATE overdue_begun SET next_time = UTC_TIMESTAMP(3) + INTERVAL 10 MINUTE',
    );
  }
  await eventually(() => allClosed(ids), 'it is closed', { withinMs: 30_000 });
});
