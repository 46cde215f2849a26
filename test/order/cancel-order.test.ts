import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

let bench: OrderBench;
let order: OrderProcess;
let other: OrderProcess;

before(async () => {
  bench = await startOrderBench('cancel');
  order = await bench.start();
  other = await bench.start();
});
afterEach(() => failpoints.clear());
after(() => bench.stop());

async function create(userId: bigint): Promise<bigint> {
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'cancel'));
  return made?.orderId ?? 0n;
}

async function setStatus(orderId: bigint, status: OrderStatus): Promise<void> {
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `UPDATE orders_${table} SET status = ${status}, version = version + 1 WHERE order_id = ${orderId}`,
  );
}

async function eventsOf(orderId: bigint): Promise<OrderEvent[]> {
  const mine = bench.published.filter(({ key }) => key === String(orderId));
  return mine.map(({ value }) => OrderEvent.decode(value));
}

test('a pending order is cancelled with its reason, history and event', async () => {
  const orderId = await create(1n);
  const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: 1n });
  assert.equal(cancelled?.status, OrderStatus.ORDER_STATUS_CANCELLED);
  assert.equal(cancelled?.closeReason, CloseReason.CLOSE_REASON_USER);
  assert.equal(cancelled?.version, 2);
  const { order: read } = await order.client.getOrder({ orderId, userId: 1n });
  assert.deepEqual(read, cancelled);
  await eventually(async () => (await eventsOf(orderId)).length >= 2, 'both events are published');
  const events = await eventsOf(orderId);
  assert.deepEqual(
    events.map(({ version, status }) => [version, status]),
    [
      [1, OrderStatus.ORDER_STATUS_PENDING],
      [2, OrderStatus.ORDER_STATUS_CANCELLED],
    ],
  );
  assert.deepEqual(events[1]?.items, cancelled?.items);
});

test('cancelling again answers the order unchanged and leaves no second event', async () => {
  const orderId = await create(2n);
  const first = await order.client.cancelOrder({ orderId, userId: 2n });
  const second = await order.client.cancelOrder({ orderId, userId: 2n });
  assert.deepEqual(second, first);
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 2n });
  assert.equal(transitions.length, 2);
});

for (const name of ['PAID', 'REFUNDING', 'REFUNDED'] as const) {
  test(`an order that is ${name} cannot be cancelled and stays as it is`, async () => {
    const userId = 10n + BigInt(OrderStatus[`ORDER_STATUS_${name}`]);
    const orderId = await create(userId);
    await setStatus(orderId, OrderStatus[`ORDER_STATUS_${name}`]);
    await assert.rejects(order.client.cancelOrder({ orderId, userId }), {
      reason: 'ILLEGAL_TRANSITION',
    });
    const { order: read } = await order.client.getOrder({ orderId, userId });
    assert.equal(read?.status, OrderStatus[`ORDER_STATUS_${name}`]);
  });
}

test('many cancels at once over two processes make one transition', async () => {
  const orderId = await create(3n);
  const calls = Array.from({ length: 200 }, (_, index) =>
    (index % 2 ? order : other).client.cancelOrder({ orderId, userId: 3n }),
  );
  const answers = await Promise.all(calls);
  for (const { order: cancelled } of answers) assert.equal(cancelled?.version, 2);
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 3n });
  assert.equal(transitions.length, 2);
  await eventually(async () => (await eventsOf(orderId)).length >= 2, 'both events are published');
  assert.equal((await eventsOf(orderId)).length, 2);
});

test('a cancel that loses the race against a payment is refused and changes nothing', async () => {
  const orderId = await create(4n);
  // The payment commits after the cancel has read the order and before it writes.
  const { database } = order.shards.placeOfOrder(orderId);
  const transaction = database.transaction.bind(database);
  let raced = false;
  database.transaction = (async (options, work) => {
    if (!raced) {
      raced = true;
      await setStatus(orderId, OrderStatus.ORDER_STATUS_PAID);
    }
    return await transaction(options, work);
  }) as typeof database.transaction;
  try {
    await assert.rejects(order.client.cancelOrder({ orderId, userId: 4n }), {
      reason: 'ILLEGAL_TRANSITION',
    });
  } finally {
    database.transaction = transaction;
  }
  assert.equal(raced, true);
  const { order: read } = await order.client.getOrder({ orderId, userId: 4n });
  assert.equal(read?.status, OrderStatus.ORDER_STATUS_PAID);
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 4n });
  assert.equal(transitions.length, 1);
});

test('2,000 cancels at once leave the creation of orders alive', async () => {
  const orderId = await create(5n);
  const cancels = Array.from({ length: 2_000 }, () =>
    order.client.cancelOrder({ orderId, userId: 5n }).then(
      () => 'cancelled',
      (error) => error.reason as string,
    ),
  );
  const created = await order.client.createOrder(orderRequest(6n, 'meanwhile'));
  assert.equal(created.order?.userId, 6n);
  const answers = new Set(await Promise.all(cancels));
  assert.ok(answers.has('cancelled'));
  for (const answer of answers) assert.ok(['cancelled', 'OVERLOADED'].includes(answer), answer);
});
