import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  type ListOrderVersionsRequest,
  OrderStateServiceDefinition,
  type OrderVersion,
} from '../../gen/sluice/event/v1/order_state_service.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { composeOrderId, slotOfUser } from '../../services/order/order-id.ts';
import { createGrpcClient } from '../../services/runtime/grpc-client.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

// What other services can ask about orders whose events were lost.

const orderIdMax = 2n ** 63n - 1n;
const policy = { deadlineMs: 20_000, breaker: 'test', readOnly: true } as const;
const callTable = { listOrderVersions: policy, batchGetOrderEvents: policy } as const;
const cancelledUsers = 10;
let bench: OrderBench;
let order: OrderProcess;
let states: ReturnType<typeof connect>;
/** All orders, ascending. */
const made: bigint[] = [];
const cancelled = new Set<bigint>();

function connect({ port }: OrderProcess) {
  const addresses = [`127.0.0.1:${port}`];
  const log = createLog('test', 'silent');
  return createGrpcClient(OrderStateServiceDefinition, { addresses, callTable, log });
}

before(async () => {
  bench = await startOrderBench('states');
  order = await bench.start();
  states = connect(order);
  for (let user = 1; user <= 120; user += 1) {
    const lines = [
      { skuId: 1n, quantity: 2 },
      { skuId: 2n, quantity: 1 },
    ];
    const request = orderRequest(BigInt(user), 'states', lines);
    const orderId = (await order.client.createOrder(request)).order?.orderId as bigint;
    made.push(orderId);
    if (user > cancelledUsers) continue;
    await order.client.cancelOrder({ orderId, userId: BigInt(user) });
    cancelled.add(orderId);
  }
  made.sort((a, b) => (a < b ? -1 : 1));
});
after(async () => {
  states?.close();
  await bench?.stop();
});

type Page = Partial<ListOrderVersionsRequest>;

async function list(page: Page) {
  return await states.client.listOrderVersions({
    databaseIndex: 0,
    afterOrderId: 0n,
    untilOrderId: orderIdMax,
    newestFirst: false,
    pageSize: 0,
    unchangedMs: 0n,
    ...page,
  });
}

/** Walks through one database in pages, as the next request follows from the last answer. */
async function walk(page: Page): Promise<{ orders: OrderVersion[]; sizes: number[] }> {
  const orders: OrderVersion[] = [];
  const sizes: number[] = [];
  for (let { afterOrderId = 0n, untilOrderId = orderIdMax } = page; ; ) {
    const answer = await list({ ...page, afterOrderId, untilOrderId });
    assert.deepEqual([answer.databaseCount, answer.unavailable], [2, false]);
    orders.push(...answer.orders);
    sizes.push(answer.orders.length);
    if (page.newestFirst) untilOrderId = answer.reachedOrderId - 1n;
    else afterOrderId = answer.reachedOrderId;
    if (afterOrderId >= untilOrderId) return { orders, sizes };
    assert.ok(sizes.length < 200, 'the pages come to an end');
  }
}

for (const newestFirst of [false, true]) {
  for (const pageSize of [1, 7, 5_000]) {
    test(`pages of ${pageSize}, ${newestFirst ? 'newest' : 'oldest'} first, come to every order once, in order`, async () => {
      const found: bigint[] = [];
      for (const databaseIndex of [0, 1]) {
        const { orders, sizes } = await walk({ databaseIndex, newestFirst, pageSize });
        const ids = orders.map(({ orderId }) => orderId);
        const sorted = [...ids].sort((a, b) => (a < b === newestFirst ? 1 : -1));
        assert.deepEqual(ids, sorted);
        assert.ok(ids.length > 20, 'both databases have orders');
        assert.ok(Math.max(...sizes) <= 2 * pageSize + 2, `pages of ${sizes}`);
        found.push(...ids);
      }
      assert.deepEqual(
        found.sort((a, b) => (a < b ? -1 : 1)),
        made,
      );
    });
  }
}

test('a version tells what the order is', async () => {
  const all = [...(await walk({})).orders, ...(await walk({ databaseIndex: 1 })).orders];
  for (const { orderId, version, status } of all) {
    const { ORDER_STATUS_CANCELLED, ORDER_STATUS_PENDING } = OrderStatus;
    const expected = cancelled.has(orderId)
      ? [2, ORDER_STATUS_CANCELLED]
      : [1, ORDER_STATUS_PENDING];
    assert.deepEqual([version, status], expected);
  }
});

test('a range is kept, orders that have just changed are left out, and so are fences', async () => {
  const { orders } = await walk({});
  const [third, tenth] = [orders[2]?.orderId as bigint, orders[9]?.orderId as bigint];
  const part = await walk({ afterOrderId: third, untilOrderId: tenth, pageSize: 3 });
  assert.deepEqual(part.orders, orders.slice(3, 10));
  const { orders: unchanged } = await walk({ unchangedMs: 3_600_000n, pageSize: 3 });
  assert.deepEqual(unchanged, []);
  await eventually(async () => {
    return (await walk({ unchangedMs: 100n })).orders.length === orders.length;
  }, 'they count as unchanged a moment later');
  const stray = composeOrderId(Date.now() - 60_000, slotOfUser(9_999n), 63, 1);
  await order.client.resolveOrders({ orderIds: [stray] });
  for (const databaseIndex of [0, 1]) {
    const ids = (await walk({ databaseIndex })).orders.map(({ orderId }) => orderId);
    assert.ok(!ids.includes(stray));
  }
});

test('an order as an event is what its own event told, and what does not exist is left out', async () => {
  const [one, two] = [made[3], made[90]] as [bigint, bigint];
  const stray = composeOrderId(Date.now() - 60_000, slotOfUser(8_888n), 63, 2);
  await order.client.resolveOrders({ orderIds: [stray] });
  const orderIds = [two, stray, one, two, 12_345n];
  const { events, unavailableOrderIds } = await states.client.batchGetOrderEvents({ orderIds });
  assert.deepEqual([events.map(({ orderId }) => orderId), unavailableOrderIds], [[one, two], []]);
  for (const event of events) {
    await eventually(() => bench.eventsOf(event.orderId).length > 0, 'its event is published');
    assert.deepEqual(event, bench.eventsOf(event.orderId).at(-1));
  }
});

test('a database that is away answers for itself, and the orders of the other one are told', async () => {
  const mysqlUrls = [mysqlUrl, 'mysql://root@127.0.0.1:1'];
  const half = await bench.start({ mysqlUrls });
  const connected = connect(half);
  const whole = states;
  states = connected;
  try {
    await eventually(
      async () => (await list({ databaseIndex: 0 }).catch(() => undefined))?.orders.length,
      'the slot map is read',
    );
    const away = await list({ databaseIndex: 1 });
    assert.deepEqual([away.orders, away.unavailable, away.databaseCount], [[], true, 2]);
    assert.equal(away.reachedOrderId, 0n, 'it reaches nowhere');
    const [there] = (await list({ databaseIndex: 0 })).orders;
    const all = await whole.client.listOrderVersions({
      ...{ databaseIndex: 1, afterOrderId: 0n, untilOrderId: orderIdMax },
      ...{ newestFirst: true, pageSize: 5, unchangedMs: 0n },
    });
    const orderIds = [there, ...all.orders].map((one) => (one as OrderVersion).orderId);
    const { events, unavailableOrderIds } = await states.client.batchGetOrderEvents({ orderIds });
    assert.deepEqual(
      events.map(({ orderId }) => orderId),
      [there?.orderId],
    );
    assert.deepEqual(unavailableOrderIds, orderIds.slice(1));
  } finally {
    states = whole;
    connected.close();
    await half.stop();
  }
});

const invalid: [string, Page, string][] = [
  ['a database that is none', { databaseIndex: 2 }, 'database_index'],
  ['a negative database', { databaseIndex: -1 }, 'database_index'],
  ['a negative id', { afterOrderId: -1n }, 'after_order_id'],
  ['an empty range', { afterOrderId: 9n, untilOrderId: 8n }, 'until_order_id'],
  ['a page that is too large', { pageSize: 5_001 }, 'page_size'],
  ['a negative age', { unchangedMs: -1n }, 'unchanged_ms'],
];
for (const [what, page, field] of invalid) {
  test(`a list with ${what} is refused by the field's name`, async () => {
    await assert.rejects(list(page), (error) => {
      assert.ok(error instanceof Refusal);
      assert.deepEqual(
        [error.reason, error.violations.map((violation) => violation.field)],
        ['INVALID_REQUEST', [field]],
      );
      return true;
    });
  });
}

for (const [what, orderIds] of [
  ['no order', []],
  ['too many orders', Array.from({ length: 501 }, (_, at) => BigInt(at + 1))],
  ['an id that is none', [1n, 0n]],
] as const) {
  test(`asking for ${what} is refused`, async () => {
    await assert.rejects(states.client.batchGetOrderEvents({ orderIds: [...orderIds] }), {
      reason: 'INVALID_REQUEST',
    });
  });
}
