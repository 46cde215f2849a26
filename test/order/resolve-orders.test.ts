import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { OrderResolution } from '../../gen/sluice/order/v1/order_service.ts';
import { composeOrderId, slotOfUser } from '../../services/order/order-id.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const { ORDER_RESOLUTION_LIVE: live, ORDER_RESOLUTION_DEAD: dead } = OrderResolution;
const { ORDER_RESOLUTION_UNDECIDED: undecided, ORDER_RESOLUTION_SOLD: sold } = OrderResolution;

let bench: OrderBench;
let order: OrderProcess;
let sweeper: OrderProcess;

before(async () => {
  bench = await startOrderBench('resolve');
  order = await bench.start();
  sweeper = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.stock.script = () => undefined;
  bench.stock.released.length = 0;
});
after(() => bench.stop());

async function resolve(...orderIds: bigint[]): Promise<OrderResolution[]> {
  return (await sweeper.client.resolveOrders({ orderIds })).resolutions;
}

/** An id that nobody has made. */
function strayId(userId: bigint, ageMs = 60_000, sequence = 0): bigint {
  return composeOrderId(Date.now() - ageMs, slotOfUser(userId), 63, sequence);
}

async function create(userId: bigint, requestId = 'resolve'): Promise<bigint> {
  const { order: made } = await order.client.createOrder(orderRequest(userId, requestId));
  return made?.orderId ?? 0n;
}

test('orders that exist are live, paid ones sold, cancelled ones dead, in the order of the question', async () => {
  const [one, two, three] = [await create(1n), await create(2n), await create(3n)];
  await order.client.cancelOrder({ orderId: two, userId: 2n });
  const amount = { currencyCode: 'EUR', minorUnits: 100n };
  await order.client.recordPayment({ orderId: three, paymentId: 9n, amount });
  assert.deepEqual(await resolve(three, two, one, two), [sold, dead, live, dead]);
});

test('an id without an order is fenced once and dead ever after', async () => {
  const stray = strayId(4n);
  assert.deepEqual(await resolve(stray, stray), [dead, dead]);
  assert.deepEqual(await resolve(stray), [dead]);
  const rows = await bench.orderRows(`order_id = ${stray}`);
  assert.equal(rows.length, 1);
  assert.equal(rows[0]?.status, OrderStatus.ORDER_STATUS_ABORTED);
  assert.equal(rows[0]?.request_id, null);
});

test('5,000 ids of all shards, known and unknown, are decided in one call', async () => {
  const users = Array.from({ length: 500 }, (_, index) => BigInt(10_000 + index));
  const { results } = await order.client.batchCreateOrders({
    requests: users.map((user) => orderRequest(user, 'many')),
  });
  const known = results.map(({ outcome }) =>
    outcome?.$case === 'created' ? (outcome.value.order?.orderId ?? 0n) : 0n,
  );
  const strays = Array.from({ length: 4_500 }, (_, index) =>
    strayId(BigInt(20_000 + index), 60_000 + index, index % 64),
  );
  const resolutions = await resolve(...known, ...strays);
  assert.ok(resolutions.slice(0, 500).every((one) => one === live));
  assert.ok(resolutions.slice(500).every((one) => one === dead));
});

test('an order whose insert is slow is undecided while it is written, then live', async (t) => {
  let letCommit: () => void = () => undefined;
  const held = new Promise<void>((resolved) => (letCommit = resolved));
  t.after(() => letCommit());
  let orderId = 0n;
  failpoints.set('order.before_commit', async ({ orderIds }) => {
    orderId = (orderIds as bigint[])[0] ?? 0n;
    await held;
  });
  const placed = order.client.createOrder(orderRequest(5n, 'slow'));
  await eventually(() => orderId !== 0n, 'the insert is about to commit');
  const stray = strayId(6n);
  assert.deepEqual(await resolve(orderId, stray), [undecided, dead]);
  letCommit();
  assert.equal((await placed).order?.orderId, orderId);
  assert.deepEqual(await resolve(orderId), [live]);
});

test('an order that is fenced before its insert is never written; its request starts over', async () => {
  let fenced = 0n;
  failpoints.set('order.before_begin', async ({ orderIds }) => {
    if (fenced !== 0n) return;
    fenced = (orderIds as bigint[])[0] ?? 0n;
    assert.deepEqual(await resolve(fenced), [dead]);
  });
  const orderId = await create(7n, 'fenced');
  assert.notEqual(orderId, fenced);
  assert.deepEqual(bench.stock.released, [fenced]);
  assert.deepEqual(await resolve(fenced, orderId), [dead, live]);
  assert.equal((await bench.orderRows('user_id = 7')).length, 1);
});

test('an order that is inserted between the sweep’s read and its fence is live', async (t) => {
  let reached: () => void = () => undefined;
  let goOn: () => void = () => undefined;
  const atFence = new Promise<void>((resolved) => (reached = resolved));
  const released = new Promise<void>((resolved) => (goOn = resolved));
  let orderId = 0n;
  let letBegin: () => void = () => undefined;
  const begun = new Promise<void>((resolved) => (letBegin = resolved));
  t.after(() => {
    goOn();
    letBegin();
  });
  failpoints.set('order.before_begin', async ({ orderIds }) => {
    orderId = (orderIds as bigint[])[0] ?? 0n;
    await begun;
  });
  failpoints.set('order.before_abort_insert', async () => {
    reached();
    await released;
  });
  const placed = order.client.createOrder(orderRequest(8n, 'between'));
  await eventually(() => orderId !== 0n, 'the insert is about to begin');
  const resolutions = resolve(orderId);
  await atFence;
  letBegin();
  await placed;
  goOn();
  assert.deepEqual(await resolutions, [live]);
});

test('a process that dies after the fence was committed changes nothing about it', async () => {
  const stray = strayId(9n);
  failpoints.set('order.after_abort_insert', () => {
    throw new Error('the process is gone');
  });
  assert.deepEqual(await resolve(stray), [undecided]);
  failpoints.clear();
  assert.deepEqual(await resolve(stray), [dead]);
});
