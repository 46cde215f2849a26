import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Channel, ClientError, createChannel, createClient, Status } from 'nice-grpc';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  type OrderServiceClient,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { OrderReader } from '../../services/order/order-reader.ts';
import { createWatchOrders } from '../../services/order/watch-orders.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createLog } from '../../services/runtime/log.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const price = { currencyCode: 'EUR', minorUnits: 100n };
const { ORDER_STATUS_PENDING: pending, ORDER_STATUS_PAID: paid } = OrderStatus;
const { ORDER_STATUS_CANCELLED: cancelled, ORDER_STATUS_REFUNDED: refunded } = OrderStatus;

let bench: OrderBench;
let order: OrderProcess;
let other: OrderProcess;
const channels: Channel[] = [];
let client: OrderServiceClient;

before(async () => {
  bench = await startOrderBench('watch');
  order = await bench.start();
  other = await bench.start();
  client = streams(order);
});
after(async () => {
  for (const channel of channels) channel.close();
  await bench.stop();
});

/** The runtime's client has no streams; this is the bare one. */
function streams(process: OrderProcess): OrderServiceClient {
  const channel = createChannel(`127.0.0.1:${process.port}`);
  channels.push(channel);
  return createClient(OrderServiceDefinition, channel);
}

let users = 0n;
async function create(): Promise<{ orderId: bigint; userId: bigint }> {
  users += 1n;
  const userId = users;
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'watch'));
  return { orderId: made?.orderId ?? 0n, userId };
}

/** Collects a stream; `seen` grows while it goes on, `done` tells how it ended. */
function watch(name: { orderId: bigint; userId: bigint }, from = client) {
  const seen: Order[] = [];
  const abort = new AbortController();
  const done = (async (): Promise<Status> => {
    try {
      for await (const { order: state } of from.watchOrder(name, { signal: abort.signal })) {
        if (state !== undefined) seen.push(state);
      }
      return Status.OK;
    } catch (error) {
      if (error instanceof ClientError) return error.code;
      return abort.signal.aborted ? Status.CANCELLED : Status.UNKNOWN;
    }
  })();
  return { seen, done, abort };
}

const pay = (process: OrderProcess, orderId: bigint) =>
  process.client.recordPayment({ orderId, paymentId: 3n, amount: price });
const refund = (orderId: bigint) =>
  order.client.recordRefund({
    orderId,
    paymentId: 3n,
    refundedTotal: price,
    done: true,
    restock: false,
  });
const statesOf = (seen: readonly Order[]): OrderStatus[] => seen.map(({ status }) => status);

async function watchers(process: OrderProcess): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${process.metricsPort}/metrics`);
  const line = (await response.text()).split('\n').find((one) => one.startsWith('order_watchers'));
  return Number(line?.split(' ').at(-1));
}

test('a watcher is shown the order now, each change, and the end of the stream at the final state', async () => {
  const name = await create();
  const { seen, done } = watch(name);
  await eventually(() => seen.length === 1, 'the order is shown');
  await pay(order, name.orderId);
  await eventually(() => seen.length === 2, 'the payment is shown');
  await refund(name.orderId);
  assert.equal(await done, Status.OK);
  assert.deepEqual(statesOf(seen).slice(0, 2), [pending, paid]);
  assert.equal(seen.at(-1)?.status, refunded);
  const { order: read } = await order.client.getOrder(name);
  assert.deepEqual(seen.at(-1), read);
  await eventually(async () => (await watchers(order)) === 0, 'nothing is left behind');
});

test('changes by another process are shown too, one message for each version', async () => {
  const name = await create();
  const { seen, done } = watch(name);
  await eventually(() => seen.length === 1, 'the order is shown');
  await pay(other, name.orderId);
  await eventually(() => seen.length === 2, 'the payment is shown');
  await refund(name.orderId);
  assert.equal(await done, Status.OK);
  const versions = seen.map(({ version }) => version);
  assert.deepEqual(
    versions,
    [...new Set(versions)].sort((a, b) => a - b),
  );
});

test('an order that is closed already is shown once and the stream ends', async () => {
  const name = await create();
  await order.client.cancelOrder(name);
  const { seen, done } = watch(name);
  assert.equal(await done, Status.OK);
  assert.deepEqual(statesOf(seen), [cancelled]);
});

test('many watchers of one order are all shown its end', async () => {
  const name = await create();
  const all = Array.from({ length: 50 }, () => watch(name));
  await eventually(() => all.every(({ seen }) => seen.length === 1), 'all are shown the order');
  await other.client.cancelOrder(name);
  for (const { seen, done } of all) {
    assert.equal(await done, Status.OK);
    assert.deepEqual(statesOf(seen), [pending, cancelled]);
  }
});

test('another user’s order, and none, cannot be watched', async () => {
  const { orderId, userId } = await create();
  assert.equal(await watch({ orderId, userId: userId + 500n }).done, Status.NOT_FOUND);
  assert.equal(await watch({ orderId: 4_713n, userId: 0n }).done, Status.NOT_FOUND);
  assert.equal(await watch({ orderId: 0n, userId: 0n }).done, Status.INVALID_ARGUMENT);
  await eventually(async () => (await watchers(order)) === 0, 'nothing is left behind');
});

test('a watcher that goes away is forgotten', async () => {
  const { seen, done, abort } = watch(await create());
  await eventually(() => seen.length === 1, 'the order is shown');
  assert.equal(await watchers(order), 1);
  abort.abort();
  await done;
  await eventually(async () => (await watchers(order)) === 0, 'it is forgotten');
});

test('beyond the bound a watcher is refused, and taken when another one has gone', async () => {
  const process = await bench.start({ watchersMax: 2 });
  const from = streams(process);
  const name = await create();
  const first = watch(name, from);
  const second = watch(name, from);
  await eventually(() => second.seen.length + first.seen.length === 2, 'two are shown the order');
  assert.equal(await watch(name, from).done, Status.UNAVAILABLE);
  first.abort.abort();
  await eventually(async () => (await watchers(process)) === 1, 'one has gone');
  const third = watch(name, from);
  await eventually(() => third.seen.length === 1, 'it is taken');
  second.abort.abort();
  third.abort.abort();
  await Promise.all([second.done, third.done]);
  await process.stop();
});

test('streams end as unavailable when the process stops, and do not hold it up', async () => {
  const process = await bench.start();
  const from = streams(process);
  const all = await Promise.all(Array.from({ length: 5 }, async () => watch(await create(), from)));
  await eventually(() => all.every(({ seen }) => seen.length === 1), 'all are shown their order');
  await process.stop();
  for (const { done } of all) assert.equal(await done, Status.UNAVAILABLE);
});

/** Watches of their own over the bench's databases; the first read of any order answers `first`. */
function watchesOf(first: Order, watchersMax: number) {
  const stored = { order: first, fingerprintHex: '', paymentBegun: false };
  const asked: bigint[] = [];
  const reader: Pick<OrderReader, 'byId'> = {
    async byId(orderId) {
      asked.push(orderId);
      return stored;
    },
  };
  const log = createLog('test', 'silent');
  const watches = createWatchOrders({
    ...{ shards: order.shards, reader: reader as OrderReader, log, watchersMax },
  });
  const open = () =>
    watches.watchOrder(first, Deadline.after(10_000), new AbortController().signal);
  return { watches, open, asked };
}

async function read(name: { orderId: bigint; userId: bigint }): Promise<Order> {
  const { order: stored } = await order.client.getOrder(name);
  assert.ok(stored);
  return stored;
}

test('a slow reader is given the newest state only', async () => {
  const first = await read(await create());
  const { watches, open } = watchesOf(first, 10);
  const stream = open();
  assert.equal((await stream.next()).value?.version, 1);
  for (const version of [2, 4, 3]) watches.changed([{ ...first, status: paid, version }]);
  assert.equal((await stream.next()).value?.version, 4);
  watches.changed([{ ...first, status: refunded, version: 5 }]);
  assert.equal((await stream.next()).value?.version, 5);
  assert.equal((await stream.next()).done, true);
  await watches.stop();
});

test('a change elsewhere is seen however many watch one order', async () => {
  const name = await create();
  const { watches, open, asked } = watchesOf(await read(name), 1_000_000);
  const streams = Array.from({ length: 150_000 }, open);
  await Promise.all(streams.map((stream) => stream.next()));
  await pay(other, name.orderId);
  const before = asked.length;
  // The poller has seen the new version, and asks for the order in each round. Once it may ask for a
  // watcher that was not shown the order yet when the round began.
  await eventually(() => asked.length >= before + 2, 'the change is seen');
  await watches.stop();
});
