import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type {
  RecordPaymentRequest,
  RecordPaymentResult,
} from '../../gen/sluice/order/v1/order_service.ts';
import { PaymentRecord } from '../../gen/sluice/order/v1/order_service.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { fromRefusalMessage } from '../../services/runtime/refusal-status.ts';
import { eventually } from '../support/eventually.ts';
import {
  byVersion,
  type OrderBench,
  type OrderProcess,
  orderRequest,
  startOrderBench,
} from './support.ts';

const { PAYMENT_RECORD_RECORDED: recorded, PAYMENT_RECORD_ORDER_CLOSED: closed } = PaymentRecord;
/** What the fake stock charges for one unit of SKU 1. */
const price = { currencyCode: 'EUR', minorUnits: 100n };

let bench: OrderBench;
let order: OrderProcess;
let other: OrderProcess;

before(async () => {
  bench = await startOrderBench('record');
  order = await bench.start();
  other = await bench.start();
});
afterEach(() => failpoints.clear());
after(() => bench.stop());

let users = 0n;
async function create(): Promise<{ orderId: bigint; userId: bigint }> {
  users += 1n;
  const userId = users;
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'pay'));
  return { orderId: made?.orderId ?? 0n, userId };
}

async function set(orderId: bigint, assignments: string): Promise<void> {
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `UPDATE orders_${table} SET ${assignments} WHERE order_id = ${orderId}`,
  );
}

async function record(orderId: bigint, paymentId: bigint): Promise<PaymentRecord> {
  return (await order.client.recordPayment({ orderId, paymentId, amount: price })).record;
}

async function historyOf(orderId: bigint): Promise<[OrderStatus, OrderStatus][]> {
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 0n });
  return transitions.map(({ fromStatus, toStatus }) => [fromStatus, toStatus]);
}

test('a payment begins while the order is pending: its total and the time left are answered', async () => {
  const { orderId, userId } = await create();
  const begun = await order.client.beginPayment({ orderId, userId });
  assert.deepEqual(begun.order?.total, price);
  assert.ok(begun.timeLeftMs > 0n && begun.timeLeftMs <= 900_000n, `${begun.timeLeftMs}`);
  const again = await other.client.beginPayment({ orderId, userId });
  assert.deepEqual(again.order, begun.order);
  const [row] = await bench.orderRows(`order_id = ${orderId}`);
  assert.deepEqual([row?.payment_begun, row?.version], [1, 1]);
});

test('a payment of another user’s order, of none, and of nobody does not begin', async () => {
  const { orderId, userId } = await create();
  const { client } = order;
  await assert.rejects(client.beginPayment({ orderId, userId: userId + 1_000n }), {
    reason: 'NOT_FOUND',
  });
  await assert.rejects(client.beginPayment({ orderId: 12_345n, userId }), { reason: 'NOT_FOUND' });
  await assert.rejects(client.beginPayment({ orderId, userId: 0n }), { reason: 'INVALID_REQUEST' });
  const [row] = await bench.orderRows(`order_id = ${orderId}`);
  assert.equal(row?.payment_begun, 0);
});

test('no payment begins once the time is over, nor of an order that is closed', async () => {
  const late = await create();
  // Begun and not to be voided, so that it does not expire before the test has asked.
  bench.payment.onClose = () => 'PAID';
  await set(late.orderId, 'payment_begun = 1, expire_time = UTC_TIMESTAMP(3)');
  await assert.rejects(order.client.beginPayment(late), { reason: 'ILLEGAL_TRANSITION' });
  bench.payment.onClose = () => 'CLOSED';
  const cancelled = await create();
  await order.client.cancelOrder(cancelled);
  await assert.rejects(order.client.beginPayment(cancelled), { reason: 'ILLEGAL_TRANSITION' });
});

test('no payment begins of an order that costs nothing, and its buyer can cancel it', async () => {
  const free = { skuId: 1n, quantity: 1, unitPrice: { currencyCode: 'EUR', minorUnits: 0n } };
  bench.stock.script = () => ({ $case: 'reserved', value: { lines: [free] } });
  const name = await create();
  bench.stock.script = () => undefined;
  await assert.rejects(order.client.beginPayment(name), {
    reason: 'ILLEGAL_TRANSITION',
    message: 'The order costs nothing, and no payment of 0 can be made: cancel it',
  });
  bench.payment.onClose = () => assert.fail('payment was asked');
  const { order: cancelled } = await order.client.cancelOrder(name);
  bench.payment.onClose = () => 'CLOSED';
  assert.equal(cancelled?.status, OrderStatus.ORDER_STATUS_CANCELLED);
});

test('a payment pays a pending order: its id, history and event; repeated, it is recorded again', async () => {
  const { orderId, userId } = await create();
  assert.equal(await record(orderId, 71n), recorded);
  assert.equal(await record(orderId, 71n), recorded);
  const { order: paid } = await order.client.getOrder({ orderId, userId });
  assert.equal(paid?.status, OrderStatus.ORDER_STATUS_PAID);
  assert.deepEqual([paid?.paymentId, paid?.version], [71n, 2]);
  assert.deepEqual((await historyOf(orderId)).slice(1), [
    [OrderStatus.ORDER_STATUS_PENDING, OrderStatus.ORDER_STATUS_PAID],
  ]);
  await eventually(() => bench.eventsOf(orderId).length >= 2, 'the event is published');
  const event = byVersion(bench.eventsOf(orderId))[1];
  assert.deepEqual([event?.paymentId, event?.version], [71n, 2]);
  assert.deepEqual(event?.items, paid?.items);
  assert.deepEqual(event?.orderCreateTime, paid?.createTime);
});

test('a payment that comes after the time is over, but before the order is closed, pays it', async () => {
  const { orderId } = await create();
  bench.payment.onClose = () => 'PAID';
  await set(orderId, 'payment_begun = 1, expire_time = UTC_TIMESTAMP(3) - INTERVAL 1 HOUR');
  assert.equal(await record(orderId, 72n), recorded);
  bench.payment.onClose = () => 'CLOSED';
});

for (const name of ['PAID', 'REFUNDING', 'REFUNDED', 'CANCELLED'] as const) {
  test(`in state ${name} the recorded payment is recorded still, and another one is too late`, async () => {
    const { orderId } = await create();
    await set(orderId, `status = ${OrderStatus[`ORDER_STATUS_${name}`]}, payment_id = 80`);
    const before = await order.client.getOrder({ orderId, userId: 0n });
    assert.equal(await record(orderId, 80n), recorded);
    assert.equal(await record(orderId, 81n), closed);
    assert.deepEqual(await order.client.getOrder({ orderId, userId: 0n }), before);
    assert.equal((await historyOf(orderId)).length, 1);
  });
}

test('a payment of a cancelled order is too late', async () => {
  const { orderId, userId } = await create();
  await order.client.cancelOrder({ orderId, userId });
  assert.equal(await record(orderId, 90n), closed);
});

for (const [what, amount] of [
  ['less', { currencyCode: 'EUR', minorUnits: 99n }],
  ['more', { currencyCode: 'EUR', minorUnits: 101n }],
  ['another currency', { currencyCode: 'USD', minorUnits: 100n }],
  ['nothing', undefined],
] as const) {
  test(`a payment of ${what} is refused and changes nothing`, async () => {
    const { orderId, userId } = await create();
    const request = { orderId, paymentId: 91n, amount };
    await assert.rejects(order.client.recordPayment(request), {
      reason: 'INVALID_REQUEST',
    });
    const { order: read } = await order.client.getOrder({ orderId, userId });
    assert.deepEqual([read?.status, read?.version], [OrderStatus.ORDER_STATUS_PENDING, 1]);
  });
}

test('payments of no order and of a fence are not found', async () => {
  await assert.rejects(record(4_711n, 1n), { reason: 'NOT_FOUND' });
  await order.client.resolveOrders({ orderIds: [4_711n] });
  await assert.rejects(record(4_711n, 1n), { reason: 'NOT_FOUND' });
  await assert.rejects(record(0n, 1n), { reason: 'INVALID_REQUEST' });
  await assert.rejects(record(4_711n, 0n), { reason: 'INVALID_REQUEST' });
});

test('many payments of one order at once over two processes: exactly one is recorded', async () => {
  for (let round = 0; round < 10; round += 1) {
    const { orderId } = await create();
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const { client } = index % 2 ? order : other;
        const paymentId = BigInt(1_000 + (index % 5));
        const { record: answer } = await client.recordPayment({
          orderId,
          paymentId,
          amount: price,
        });
        return { paymentId, answer };
      }),
    );
    const { order: paid } = await order.client.getOrder({ orderId, userId: 0n });
    for (const { paymentId, answer } of answers) {
      assert.equal(answer, paymentId === paid?.paymentId ? recorded : closed);
    }
    assert.equal(paid?.version, 2);
    assert.equal((await historyOf(orderId)).length, 2);
  }
});

test('one refused payment in a batch touches no other one', async () => {
  const orders = await Promise.all(Array.from({ length: 60 }, () => create()));
  const calls = orders.map(({ orderId }, index) =>
    order.client
      .recordPayment({
        orderId,
        paymentId: 2_000n + BigInt(index),
        amount: index % 10 === 0 ? { currencyCode: 'EUR', minorUnits: 1n } : price,
      })
      .then(
        ({ record: answer }) => answer,
        (error) => error.reason as string,
      ),
  );
  const answers = await Promise.all(calls);
  for (const [index, answer] of answers.entries()) {
    assert.equal(answer, index % 10 === 0 ? 'INVALID_REQUEST' : recorded);
  }
});

test('payments that wait for a lock hold up only themselves', async () => {
  const orders = await Promise.all(Array.from({ length: 20 }, () => create()));
  const stuck = orders[7]?.orderId as bigint;
  const { database, table } = order.shards.placeOfOrder(stuck);
  await bench.sql(database.index, 'START TRANSACTION');
  let answers: unknown[];
  try {
    await bench.sql(
      database.index,
      `SELECT 1 FROM orders_${table} WHERE order_id = ${stuck} FOR UPDATE`,
    );
    answers = await Promise.all(
      orders.map(({ orderId }) => record(orderId, 3_000n).catch((error) => error.reason)),
    );
  } finally {
    await bench.sql(database.index, 'ROLLBACK');
  }
  for (const [index, answer] of answers.entries()) {
    assert.equal(answer, index === 7 ? 'OVERLOADED' : recorded);
  }
  assert.equal(await record(stuck, 3_000n), recorded);
});

test('a process that fails before the commit leaves nothing; after it, everything', async () => {
  for (const [moment, left] of [
    ['before', 1],
    ['after', 2],
  ] as const) {
    const { orderId } = await create();
    failpoints.set(`order.${moment}_record_payment_commit`, () => {
      throw new Error('broken here');
    });
    await assert.rejects(record(orderId, 5n), { reason: 'OUTCOME_UNKNOWN' });
    failpoints.clear();
    assert.equal((await historyOf(orderId)).length, left);
    assert.equal(await record(orderId, 5n), recorded);
    assert.equal((await historyOf(orderId)).length, 2);
    await eventually(() => bench.eventsOf(orderId).length >= 2, 'the event is published');
    assert.equal(bench.eventsOf(orderId).length, 2);
  }
});

test('a batch of payments answers each by itself, also two of one order', async () => {
  const [first, second, third] = await Promise.all([create(), create(), create()]);
  assert(first && second && third);
  await order.client.cancelOrder(third);
  const pay = (orderId: bigint, paymentId: bigint, amount = price): RecordPaymentRequest => ({
    ...{ orderId, paymentId, amount },
  });
  const requests = [
    pay(first.orderId, 4_001n),
    pay(second.orderId, 4_002n, { currencyCode: 'EUR', minorUnits: 99n }),
    pay(first.orderId, 4_003n),
    pay(4_712n, 4_004n),
    pay(first.orderId, 4_001n),
    pay(0n, 4_005n),
    pay(second.orderId, 0n),
    { orderId: second.orderId, paymentId: 4_006n, amount: undefined },
    pay(second.orderId, 4_007n),
    pay(third.orderId, 4_008n),
  ];
  const wanted = [
    ...[recorded, 'INVALID_REQUEST amount', closed, 'NOT_FOUND ', recorded],
    ...['INVALID_REQUEST order_id', 'INVALID_REQUEST payment_id', 'INVALID_REQUEST amount'],
    ...[recorded, closed],
  ];
  const { results } = await order.client.batchRecordPayments({ requests });
  assert.deepEqual(results.map(outcomeOf), wanted);
  const again = await other.client.batchRecordPayments({ requests });
  assert.deepEqual(again.results.map(outcomeOf), wanted);
  for (const { orderId } of [first, second]) assert.equal((await historyOf(orderId)).length, 2);
});

for (const count of [0, 501]) {
  test(`a batch of ${count} payments is refused as a whole`, async () => {
    const { orderId } = await create();
    const requests = Array.from({ length: count }, () => ({
      ...{ orderId, paymentId: 5_000n, amount: price },
    }));
    const call = order.client.batchRecordPayments({ requests });
    await assert.rejects(call, { reason: 'INVALID_REQUEST' });
    assert.equal((await historyOf(orderId)).length, 1);
  });
}

/** What became of the payment, or why it was refused and the field at fault. */
function outcomeOf({ outcome }: RecordPaymentResult): PaymentRecord | string | undefined {
  if (outcome?.$case === 'recorded') return outcome.value.record;
  const refusal = outcome && fromRefusalMessage(outcome.value);
  return refusal && `${refusal.reason} ${refusal.violations.map(({ field }) => field)}`;
}
