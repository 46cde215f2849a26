import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bearer, type ProblemBody, until, useEdge } from './support.ts';

const edge = useEdge();
const { peers } = edge;

const json = { 'content-type': 'application/json' };
const lines = [{ skuId: '9007199254740993', quantity: 2 }];

function order(userId: bigint, key: string, body: unknown = { lines }): Promise<Response> {
  const headers = { ...json, ...bearer(userId), 'idempotency-key': key };
  return fetch(`${edge.url}/v1/orders`, { method: 'POST', headers, body: JSON.stringify(body) });
}

test('an order answers 201 with its location and every field, int64s as strings', async () => {
  const response = await order(1_001n, 'click-1');
  assert.equal(response.status, 201);
  assert.equal(response.headers.get('content-type'), 'application/json');
  assert.equal(response.headers.get('idempotent-replayed'), null);
  const body = (await response.json()) as Record<string, unknown>;
  assert.equal(response.headers.get('location'), `/v1/orders/${body.orderId}`);
  assert.deepEqual(body, {
    orderId: '9007199254740993',
    userId: '1001',
    status: 'ORDER_STATUS_PENDING',
    items: [
      {
        skuId: '9007199254740993',
        quantity: 2,
        unitPrice: { currencyCode: 'USD', minorUnits: '9007199254740993' },
      },
    ],
    total: { currencyCode: 'USD', minorUnits: '9007199254740993' },
    createTime: '2027-01-02T03:04:05.678Z',
    expireTime: '2027-01-02T03:19:05.678Z',
    closeReason: 'CLOSE_REASON_UNSPECIFIED',
    requestId: 'click-1',
    version: 1,
    updateTime: '2027-01-02T03:04:05.678Z',
    paymentId: '0',
    refunded: null,
  });
});

test('the same key answers the same order, marked as replayed', async () => {
  const first = await order(1_002n, 'click-2');
  const second = await order(1_002n, 'click-2');
  assert.equal(second.status, 201);
  assert.equal(second.headers.get('idempotent-replayed'), 'true');
  assert.equal(second.headers.get('location'), first.headers.get('location'));
  assert.deepEqual(await second.json(), await first.json());
});

test('the user of an order is the one of the token', async () => {
  const response = await order(77n, 'click-77');
  assert.equal(((await response.json()) as { userId: string }).userId, '77');
});

test('fields may be sent under their proto names and numbers as safe JSON integers', async () => {
  const response = await order(1_003n, 'click-3', { lines: [{ sku_id: 5, quantity: '3' }] });
  assert.equal(response.status, 201);
  const { items } = (await response.json()) as { items: { skuId: string; quantity: number }[] };
  assert.equal(items[0]?.skuId, '5');
  assert.equal(items[0]?.quantity, 3);
});

test("another user's order is not found", async () => {
  const created = await order(1_004n, 'click-4');
  const { orderId } = (await created.json()) as { orderId: string };
  const own = await fetch(`${edge.url}/v1/orders/${orderId}`, { headers: bearer(1_004n) });
  assert.equal(own.status, 200);
  for (const path of [`/v1/orders/${orderId}`, `/v1/orders/${orderId}/history`]) {
    const response = await fetch(`${edge.url}${path}`, { headers: bearer(1_005n) });
    assert.equal(response.status, 404);
    assert.equal(((await response.json()) as ProblemBody).reason, 'NOT_FOUND');
  }
  const cancel = { method: 'POST', headers: bearer(1_005n) };
  assert.equal((await fetch(`${edge.url}/v1/orders/${orderId}/cancel`, cancel)).status, 404);
});

test('cancelling, with an empty object or without a body, answers the order', async () => {
  const created = await order(1_006n, 'click-6');
  const { orderId } = (await created.json()) as { orderId: string };
  const url = `${edge.url}/v1/orders/${orderId}/cancel`;
  const plain = await fetch(url, { method: 'POST', headers: bearer(1_006n) });
  assert.equal(plain.status, 200);
  const body = (await plain.json()) as { status: string; closeReason: string };
  assert.equal(body.status, 'ORDER_STATUS_CANCELLED');
  assert.equal(body.closeReason, 'CLOSE_REASON_USER');
  const headers = { ...json, ...bearer(1_006n) };
  assert.equal((await fetch(url, { method: 'POST', headers, body: '{}' })).status, 200);
  assert.equal((await fetch(url, { method: 'POST', headers, body: '{"why":1}' })).status, 400);
});

test('the history lists the transitions', async () => {
  const created = await order(1_007n, 'click-7');
  const { orderId } = (await created.json()) as { orderId: string };
  const url = `${edge.url}/v1/orders/${orderId}/history`;
  const response = await fetch(url, { headers: bearer(1_007n) });
  assert.deepEqual(await response.json(), {
    transitions: [
      {
        version: 1,
        fromStatus: 'ORDER_STATUS_UNSPECIFIED',
        toStatus: 'ORDER_STATUS_PENDING',
        closeReason: 'CLOSE_REASON_UNSPECIFIED',
        transitionTime: '2027-01-02T03:04:05.678Z',
      },
    ],
  });
});

test('a list passes page size and token on and answers the next token', async () => {
  const url = `${edge.url}/v1/orders?pageSize=100&pageToken=a%20token`;
  const response = await fetch(url, { headers: bearer(1_008n) });
  assert.equal(response.status, 200);
  const { nextPageToken } = (await response.json()) as { nextPageToken: string };
  assert.equal(nextPageToken, 'next "page"');
  assert.deepEqual(peers.asked.findLast(({ method }) => method === 'listOrders')?.request, {
    userId: 1_008n,
    pageSize: 100,
    pageToken: 'a token',
  });
});

test('orders that arrive while two batches are under way go together as the next one', async () => {
  peers.batches.length = 0;
  const { promise, resolve } = Promise.withResolvers<void>();
  peers.hold = promise;
  const orders: Promise<Response>[] = [];
  try {
    for (const count of [1, 2]) {
      orders.push(order(2_000n, `early-${count}`));
      await until(async () => peers.batches.length === count);
    }
    for (let count = 0; count < 30; count += 1) orders.push(order(2_000n, `rest-${count}`));
    // The edge has taken all of them in when it has answered a request that came after them.
    await until(async () => {
      const text = await (await fetch(`${edge.metricsUrl}/metrics`)).text();
      return /edge_orders_waiting\{[^}]*\} 32/.test(text);
    });
  } finally {
    peers.hold = undefined;
    resolve();
  }
  const answers = await Promise.all(orders);
  assert.ok(answers.every(({ status }) => status === 201));
  assert.deepEqual(peers.batches, [1, 1, 30]);
});
