import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { EventReader, type StreamEvent } from './event-reader.ts';
import { bearer, type ProblemBody, startEdge, until, useEdge } from './support.ts';

const edge = useEdge({ SLUICE_EDGE_STREAMS: '15' });
const { peers } = edge;

beforeEach(() => {
  peers.refusal = undefined;
});

let orders = 0;

/** The id of a new PENDING order of the user. */
function newOrder(userId: bigint): bigint {
  orders += 1;
  const { outcome } = peers.create({
    userId,
    requestId: `order-${orders}`,
    lines: [{ skuId: 1n, quantity: 1 }],
  });
  assert.ok(outcome?.$case === 'created' && outcome.value.order);
  return outcome.value.order.orderId;
}

/** Opens the stream of an order for a user. */
function open(
  orderId: bigint,
  userId: bigint,
  { headers = {}, url = edge.url }: { headers?: Record<string, string>; url?: string } = {},
): Promise<EventReader> {
  return EventReader.open(`${url}/v1/orders/${orderId}/events`, { ...bearer(userId), ...headers });
}

/** The version and the state that an event tells. */
function stateOf(event: StreamEvent | undefined): [version: number, status: string] {
  assert.equal(event?.event, 'order');
  const order = JSON.parse(event.data) as { version: number; status: string };
  assert.equal(event.id, String(order.version));
  return [order.version, order.status];
}

const PAID = { status: OrderStatus.ORDER_STATUS_PAID, paymentId: 5n };
const CANCELLED = { status: OrderStatus.ORDER_STATUS_CANCELLED, closeReason: 2 } as const;

test('the present state comes at once, each change as it happens, and the final one ends it', async () => {
  const orderId = newOrder(1n);
  const reader = await open(orderId, 1n);
  assert.equal(reader.response.status, 200);
  assert.equal(reader.response.headers.get('content-type'), 'text/event-stream');
  assert.equal(reader.response.headers.get('cache-control'), 'no-store');
  assert.equal(reader.response.headers.get('x-content-type-options'), 'nosniff');
  const first = await reader.next();
  assert.deepEqual(stateOf(first), [1, 'ORDER_STATUS_PENDING']);
  const read = await fetch(`${edge.url}/v1/orders/${orderId}`, { headers: bearer(1n) });
  assert.equal(first?.data, await read.text(), 'the same JSON as GET answers');

  peers.change(orderId, PAID);
  assert.deepEqual(stateOf(await reader.next()), [2, 'ORDER_STATUS_PAID']);
  peers.change(orderId, { refunded: { currencyCode: 'USD', minorUnits: 5n } });
  const partly = await reader.next();
  assert.deepEqual(stateOf(partly), [3, 'ORDER_STATUS_PAID']);
  assert.deepEqual((JSON.parse(partly?.data ?? '') as { refunded: unknown }).refunded, {
    currencyCode: 'USD',
    minorUnits: '5',
  });
  peers.change(orderId, { status: OrderStatus.ORDER_STATUS_REFUNDING });
  peers.change(orderId, { status: OrderStatus.ORDER_STATUS_REFUNDED });
  assert.deepEqual(stateOf(await reader.next()), [4, 'ORDER_STATUS_REFUNDING']);
  assert.deepEqual(stateOf(await reader.next()), [5, 'ORDER_STATUS_REFUNDED']);
  assert.deepEqual(await reader.next(), { event: 'end', data: '{}' });
  assert.equal(await reader.next(), undefined);
  await until(async () => peers.watching === 0);
});

for (const [name, change] of [
  ['cancelled', CANCELLED],
  ['rejected', { status: OrderStatus.ORDER_STATUS_REJECTED }],
] as const) {
  test(`a ${name} order is shown once and the stream ends`, async () => {
    const orderId = newOrder(1n);
    peers.change(orderId, change);
    const reader = await open(orderId, 1n);
    assert.equal(stateOf(await reader.next())[0], 2);
    assert.equal((await reader.next())?.event, 'end');
    assert.equal(await reader.next(), undefined);
    await until(async () => peers.watching === 0);
  });
}

test('a client that comes again is spared the state that it has seen, and no other', async () => {
  const orderId = newOrder(1n);
  peers.change(orderId, PAID);
  const seen = await open(orderId, 1n, { headers: { 'last-event-id': '2' } });
  await until(async () => peers.watching === 1);
  peers.change(orderId, { status: OrderStatus.ORDER_STATUS_REFUNDING });
  assert.deepEqual(stateOf(await seen.next()), [3, 'ORDER_STATUS_REFUNDING']);
  for (const lastEventId of ['1', '99', '-1', 'nonsense', '']) {
    const reader = await open(orderId, 1n, { headers: { 'last-event-id': lastEventId } });
    assert.equal(stateOf(await reader.next())[0], 3, lastEventId);
    reader.leave();
  }
  peers.change(orderId, { status: OrderStatus.ORDER_STATUS_REFUNDED });
  assert.equal(stateOf(await seen.next())[0], 4);
  const last = await open(orderId, 1n, { headers: { 'last-event-id': '4' } });
  assert.equal((await last.next())?.event, 'end');
  await until(async () => peers.watching === 0);
});

test('a lost stream is taken up again, and no version comes twice or is missed', async () => {
  const orderId = newOrder(1n);
  const reader = await open(orderId, 1n);
  assert.equal(stateOf(await reader.next())[0], 1);
  for (const error of [new Refusal('DEPENDENCY_DOWN'), new Error('broken')]) {
    await until(async () => peers.watching === 1);
    peers.changes.emit('error', error);
    await until(async () => peers.watching === 0);
  }
  peers.change(orderId, PAID);
  assert.deepEqual(stateOf(await reader.next()), [2, 'ORDER_STATUS_PAID']);
  await until(async () => peers.watching === 1);
  peers.change(orderId, { status: OrderStatus.ORDER_STATUS_REFUNDED });
  assert.equal(stateOf(await reader.next())[0], 3);
  assert.equal((await reader.next())?.event, 'end');
});

test('an order that is gone when its stream is taken up again ends the stream without an end event', async () => {
  const orderId = newOrder(1n);
  const reader = await open(orderId, 1n);
  assert.equal(stateOf(await reader.next())[0], 1);
  await until(async () => peers.watching === 1);
  peers.orders.delete(orderId);
  peers.changes.emit('error', new Refusal('DEPENDENCY_DOWN'));
  assert.equal(await reader.next(), undefined);
});

test('a client that goes away ends the call behind it and frees its place', async () => {
  const orderId = newOrder(1n);
  const reader = await open(orderId, 1n);
  await reader.next();
  await until(async () => peers.watching === 1);
  reader.leave();
  await until(async () => peers.watching === 0);
  await until(async () => (await streamsOpen()) === 0);
});

async function streamsOpen(): Promise<number> {
  const text = await (await fetch(`${edge.metricsUrl}/metrics`)).text();
  return Number(/^edge_order_streams(?:\{.*\})? (\d+)$/m.exec(text)?.[1]);
}

async function assertLimited(response: Response): Promise<void> {
  assert.equal(response.status, 429);
  assert.ok(Number(response.headers.get('retry-after')) >= 1);
  assert.equal(((await response.json()) as ProblemBody).reason, 'RATE_LIMITED');
}

function watch(orderId: bigint, userId: bigint): Promise<Response> {
  return fetch(`${edge.url}/v1/orders/${orderId}/events`, { headers: bearer(userId) });
}

test('a user has 10 streams and the process as many as are set; the next is 429 until one leaves', async () => {
  const first = newOrder(1n);
  const second = newOrder(2n);
  const readers: EventReader[] = [];
  try {
    for (let count = 0; count < 10; count += 1) readers.push(await open(first, 1n));
    await assertLimited(await watch(first, 1n));
    for (let count = 0; count < 5; count += 1) readers.push(await open(second, 2n));
    await assertLimited(await watch(second, 2n));
    assert.equal(await streamsOpen(), 15);
    readers.shift()?.leave();
    await until(async () => (await streamsOpen()) === 14);
    readers.push(await open(first, 1n));
    assert.equal(readers.at(-1)?.response.status, 200);
  } finally {
    for (const reader of readers) reader.leave();
  }
  await until(async () => (await streamsOpen()) === 0);
});

test("another user's order is not found, and holds no place", async () => {
  const orderId = newOrder(1n);
  for (let count = 0; count < 11; count += 1) {
    const response = await watch(orderId, 2n);
    assert.equal(response.status, 404);
    assert.equal(response.headers.get('content-type'), 'application/problem+json');
    assert.equal(((await response.json()) as ProblemBody).reason, 'NOT_FOUND');
  }
});

test('no token, a bad one, one in the URL and bad ids are refused before anybody is asked', async () => {
  const asked = peers.asked.length;
  const orderId = newOrder(1n);
  const token = bearer(1n).authorization.slice('Bearer '.length);
  const url = `${edge.url}/v1/orders/${orderId}/events`;
  assert.equal((await fetch(url)).status, 401);
  assert.equal((await fetch(url, { headers: { authorization: 'Bearer x' } })).status, 401);
  assert.equal((await fetch(`${url}?access_token=${token}`)).status, 401);
  const both = await fetch(`${url}?access_token=${token}`, { headers: bearer(1n) });
  assert.equal(both.status, 400);
  assert.equal(((await both.json()) as ProblemBody).violations?.[0]?.field, 'access_token');
  for (const id of ['0', '-1', 'x', '9223372036854775808']) {
    const response = await fetch(`${edge.url}/v1/orders/${id}/events`, { headers: bearer(1n) });
    assert.equal(response.status, 400);
    assert.equal(((await response.json()) as ProblemBody).violations?.[0]?.field, 'orderId');
  }
  assert.equal((await fetch(url, { method: 'HEAD', headers: bearer(1n) })).status, 405);
  assert.equal((await fetch(url, { method: 'POST', headers: bearer(1n) })).status, 405);
  assert.equal(peers.asked.length, asked);
});

for (const [reason, status] of [
  ['OVERLOADED', 503],
  ['DEPENDENCY_DOWN', 503],
] as const) {
  test(`${reason} of order is ${status}, not an empty stream`, async () => {
    const orderId = newOrder(1n);
    peers.refusal = new Refusal(reason);
    const response = await watch(orderId, 1n);
    assert.equal(response.status, status);
    assert.equal(((await response.json()) as ProblemBody).reason, reason);
  });
}

test('an order service that is away is 503', async () => {
  const alone = await startEdge(1);
  try {
    const response = await fetch(`${alone.url}/v1/orders/1/events`, { headers: bearer(1n) });
    assert.equal(response.status, 503);
    assert.ok(Number(response.headers.get('retry-after')) >= 1);
  } finally {
    await alone.stop();
  }
});

test('heartbeats are comments, and a stream ends by itself after its lifetime', async () => {
  // The lifetime holds a heartbeat also where the machine pauses.
  const orderStream = { heartbeatMs: 50, lifetimeMs: 3_000 };
  const brief = await startEdge(edge.peersPort, {}, { orderStream });
  try {
    const reader = await open(newOrder(1n), 1n, { url: brief.url });
    const blocks: string[] = [];
    for (let block = await reader.block(); block !== undefined; block = await reader.block()) {
      blocks.push(block);
    }
    assert.match(blocks[0] ?? '', /^event: order\nid: 1\ndata: /);
    assert.ok(blocks.length >= 2);
    assert.ok(blocks.slice(1).every((block) => block === ':'));
    await until(async () => peers.watching === 0);
  } finally {
    await brief.stop();
  }
});

test('a server that stops ends its streams and is not kept from closing', async () => {
  const stopping = await startEdge(edge.peersPort, { SLUICE_EDGE_DRAIN_MS: '300' });
  try {
    const orderId = newOrder(1n);
    const opening = [1, 2, 3].map(() => open(orderId, 1n, { url: stopping.url }));
    const readers = await Promise.all(opening);
    for (const reader of readers) assert.equal(stateOf(await reader.next())[0], 1);
    const stopped = stopping.stop();
    for (const reader of readers) assert.equal(await reader.next(), undefined);
    await stopped;
    await until(async () => peers.watching === 0);
    await assert.rejects(fetch(`${stopping.url}/healthz`));
  } finally {
    await stopping.stop();
  }
});
