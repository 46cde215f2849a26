import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const {
  ORDER_STATUS_PAID: paid,
  ORDER_STATUS_REFUNDING: refunding,
  ORDER_STATUS_REFUNDED: refunded,
} = OrderStatus;
const total = 100n;
const paymentId = 9n;

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('refund');
  order = await bench.start();
});
after(() => bench.stop());

let users = 0n;
async function paidOrder(): Promise<bigint> {
  users += 1n;
  const { order: made } = await order.client.createOrder(orderRequest(users, 'refund'));
  const orderId = made?.orderId ?? 0n;
  await order.client.recordPayment({ orderId, paymentId, amount: eur(total) });
  return orderId;
}

const eur = (minorUnits: bigint) => ({ currencyCode: 'EUR', minorUnits });

async function tell(
  orderId: bigint,
  sum: bigint,
  { done = true, restock = false }: { done?: boolean; restock?: boolean } = {},
) {
  const request = { orderId, paymentId, refundedTotal: eur(sum), done, restock };
  const { order: answered } = await order.client.recordRefund(request);
  assert.ok(answered);
  return answered;
}

async function statesOf(orderId: bigint): Promise<OrderStatus[]> {
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 0n });
  return transitions.map(({ toStatus }) => toStatus);
}

test('a whole refund begins and is done: PAID, REFUNDING, REFUNDED', async () => {
  const orderId = await paidOrder();
  const begun = await tell(orderId, total, { done: false });
  assert.deepEqual([begun.status, begun.version, begun.refunded], [refunding, 3, undefined]);
  assert.deepEqual(await tell(orderId, total, { done: false }), begun);
  const done = await tell(orderId, total);
  assert.deepEqual([done.status, done.version, done.refunded], [refunded, 4, eur(total)]);
  assert.deepEqual(await tell(orderId, total), done);
  assert.deepEqual(await tell(orderId, total, { done: false }), done);
  assert.deepEqual((await statesOf(orderId)).slice(1), [paid, refunding, refunded]);
});

test('a whole refund whose beginning was not told goes through both states at once', async () => {
  const orderId = await paidOrder();
  const done = await tell(orderId, total, { restock: true });
  assert.deepEqual([done.status, done.version], [refunded, 4]);
  assert.deepEqual((await statesOf(orderId)).slice(1), [paid, refunding, refunded]);
  await eventually(() => bench.eventsOf(orderId).length >= 4, 'all events are published');
  assert.deepEqual(
    bench.eventsOf(orderId).map((event) => [event.version, event.status, event.restock]),
    [
      [1, OrderStatus.ORDER_STATUS_PENDING, false],
      [2, paid, false],
      [3, refunding, false],
      [4, refunded, true],
    ],
  );
  assert.deepEqual(bench.eventsOf(orderId)[3]?.refunded, eur(total));
});

test('partial refunds leave the order PAID, each with a version, until the sum is whole', async () => {
  const orderId = await paidOrder();
  assert.equal((await tell(orderId, 30n, { done: false })).version, 2);
  const first = await tell(orderId, 30n);
  assert.deepEqual([first.status, first.version, first.refunded], [paid, 3, eur(30n)]);
  assert.deepEqual(await tell(orderId, 30n), first);
  const second = await tell(orderId, 75n);
  assert.deepEqual([second.status, second.version, second.refunded], [paid, 4, eur(75n)]);
  // An older sum that arrives late is known already.
  assert.deepEqual(await tell(orderId, 30n), second);
  const whole = await tell(orderId, total);
  assert.deepEqual([whole.status, whole.version, whole.refunded], [refunded, 6, eur(total)]);
  assert.deepEqual(await tell(orderId, 75n), whole);
  assert.deepEqual((await statesOf(orderId)).slice(1), [paid, paid, paid, refunding, refunded]);
  await eventually(() => bench.eventsOf(orderId).length >= 6, 'all events are published');
  const sums = bench.eventsOf(orderId).map((event) => event.refunded?.minorUnits ?? 0n);
  assert.deepEqual(sums, [0n, 0n, 30n, 75n, 75n, total]);
});

test('units go back on sale only with the step that makes the sum whole', async () => {
  const orderId = await paidOrder();
  await tell(orderId, 40n, { restock: true });
  await tell(orderId, total, { restock: true });
  await eventually(() => bench.eventsOf(orderId).length >= 5, 'all events are published');
  const flags = bench.eventsOf(orderId).map(({ restock }) => restock);
  assert.deepEqual(flags, [false, false, false, false, true]);
});

test('a refund that began whole and ends partial leaves the order REFUNDING', async () => {
  const orderId = await paidOrder();
  await tell(orderId, total, { done: false });
  const part = await tell(orderId, 20n);
  assert.deepEqual([part.status, part.refunded], [refunding, eur(20n)]);
  assert.equal((await tell(orderId, total)).status, refunded);
});

test('a refund of another payment, currency or sum is refused and changes nothing', async () => {
  const orderId = await paidOrder();
  const good = { orderId, paymentId, refundedTotal: eur(10n), done: true, restock: false };
  for (const [field, wrong] of [
    ['payment_id', { paymentId: 8n }],
    ['refunded_total', { refundedTotal: eur(total + 1n) }],
    ['refunded_total', { refundedTotal: eur(0n) }],
    ['refunded_total', { refundedTotal: undefined }],
    ['refunded_total', { refundedTotal: { currencyCode: 'USD', minorUnits: 10n } }],
  ] as const) {
    await assert.rejects(order.client.recordRefund({ ...good, ...wrong }), (error) => {
      const { reason, violations } = error as { reason: string; violations: { field: string }[] };
      assert.deepEqual([reason, violations[0]?.field], ['INVALID_REQUEST', field]);
      return true;
    });
  }
  await assert.rejects(order.client.recordRefund({ ...good, orderId: 4_712n }), {
    reason: 'NOT_FOUND',
  });
  const { order: read } = await order.client.getOrder({ orderId, userId: 0n });
  assert.deepEqual([read?.status, read?.version, read?.refunded], [paid, 2, undefined]);
});

test('an order that was never paid has nothing to refund', async () => {
  const { order: made } = await order.client.createOrder(orderRequest(9_999n, 'unpaid'));
  await assert.rejects(tell(made?.orderId ?? 0n, 10n), { reason: 'INVALID_REQUEST' });
});
