import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { EventMessage, EventPublisher } from '../../services/runtime/event-publisher.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('relay', { databases: 1, tables: 1 });
  order = await bench.start();
});
afterEach(async () => {
  failpoints.clear();
  await eventually(async () => (await waiting()) === 0, 'the outbox is empty', {
    withinMs: 60_000,
  });
  bench.published.length = 0;
});
after(() => bench.stop());

async function waiting(): Promise<number> {
  const [row] = await bench.sql(0, 'SELECT COUNT(*) AS waiting FROM outbox');
  return Number(row?.waiting);
}

function publishedFor(orderId: bigint): EventMessage[] {
  return bench.published.filter(({ key }) => key === String(orderId));
}

async function create(requestId: string): Promise<bigint> {
  const { order: made } = await order.client.createOrder(orderRequest(1n, requestId));
  return made?.orderId ?? 0n;
}

test('an event carries the whole order, under the order’s id', async () => {
  const { order: made } = await order.client.createOrder(
    orderRequest(1n, 'event', [
      { skuId: 2n, quantity: 3 },
      { skuId: 1n, quantity: 1 },
    ]),
  );
  await eventually(() => publishedFor(made?.orderId ?? 0n).length > 0, 'the event is published');
  const [message] = publishedFor(made?.orderId ?? 0n);
  assert.deepEqual(OrderEvent.decode(message!.value), {
    orderId: made?.orderId,
    version: 1,
    userId: 1n,
    status: OrderStatus.ORDER_STATUS_PENDING,
    closeReason: 0,
    items: made?.items,
    total: made?.total,
    eventTime: made?.createTime,
    paymentId: 0n,
    restock: false,
    refunded: undefined,
    orderCreateTime: made?.createTime,
  });
});

test('a relay that fails between publishing and deleting publishes the same event again', async () => {
  let failures = 0;
  failpoints.set('relay.after_publish', () => {
    failures += 1;
    if (failures === 1) throw new Error('the process is gone');
  });
  const orderId = await create('repeated');
  await eventually(() => publishedFor(orderId).length >= 2, 'it is published again', {
    withinMs: 40_000,
  });
  const [first, second] = publishedFor(orderId).map(({ value }) => OrderEvent.decode(value));
  assert.deepEqual(second, first);
  await eventually(async () => (await waiting()) === 0, 'it is deleted in the end');
});

test('a relay that fails before publishing loses nothing', async () => {
  let failures = 0;
  failpoints.set('relay.before_publish', () => {
    failures += 1;
    if (failures <= 3) throw new Error('Kafka is away');
  });
  const orderId = await create('late');
  await eventually(() => publishedFor(orderId).length >= 1, 'it is published in the end');
  assert.ok(failures > 3);
});

test('orders are taken while Kafka is away, and every event comes when it is back', async () => {
  let away = true;
  const late: EventMessage[] = [];
  const publisher: EventPublisher = {
    async publish(_topic, messages) {
      if (away) throw new Error('Kafka is away');
      late.push(...messages);
    },
    async close() {},
  };
  // The first process relays too, and would publish what this one has left.
  await order.stop();
  const alone = await bench.start({}, { publisher });
  const ids = new Set<string>();
  for (let index = 0; index < 50; index += 1) {
    const { order: made } = await alone.client.createOrder(orderRequest(2n, `away ${index}`));
    ids.add(String(made?.orderId));
  }
  assert.equal(late.length, 0);
  away = false;
  await eventually(() => new Set(late.map(({ key }) => key)).size === 50, 'all events are there');
  assert.deepEqual(new Set(late.map(({ key }) => key)), ids);
  await alone.stop();
  order = await bench.start();
});
