import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { after, before, test } from 'node:test';
import { bearer, Peers, type RunningEdge, startEdge, startPeers, until } from './support.ts';

// The door in front of everything that is done for an order.

const limit = 5;
const peers = new Peers();
let server: Awaited<ReturnType<typeof startPeers>>;
let edge: RunningEdge;

before(async () => {
  server = await startPeers(peers);
  edge = await startEdge(server.port, {}, { orderDoor: { startLimit: limit, limitMin: limit } });
  await until(async () => (await fetch(`${edge.url}/readyz`)).status === 200);
});

after(async () => {
  await edge?.stop();
  await server?.stop();
});

async function order(number: number): Promise<number> {
  const { status, body } = await fetch(`${edge.url}/v1/orders`, {
    method: 'POST',
    headers: {
      ...bearer(BigInt(number)),
      'content-type': 'application/json',
      'idempotency-key': String(number),
    },
    body: '{"lines":[{"skuId":"1","quantity":1}]}',
  });
  await body?.cancel();
  return status;
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${edge.metricsUrl}/metrics`)).text();
  return Number(new RegExp(`^${name}\\S* (\\d+)$`, 'm').exec(text)?.[1]);
}

/** Sends the beginning of a request for an order that never ends. */
async function beginOrder(authorization = ''): Promise<Socket> {
  const socket = connect(edge.port, '127.0.0.1').on('error', () => {});
  await once(socket, 'connect');
  const head = 'POST /v1/orders HTTP/1.1\r\nhost: edge\r\ncontent-type: application/json\r\n';
  socket.write(`${head}authorization: ${authorization}\r\ncontent-length: 1000\r\n\r\n{`);
  return socket;
}

test('a full door refuses an order at the head of its request, whoever sends it, and nothing else', async () => {
  const { promise, resolve: release } = Promise.withResolvers<void>();
  peers.hold = promise;
  const answers = Array.from({ length: limit }, (_, number) => order(number + 1));
  try {
    await until(async () => (await metric('edge_orders_under_way')) === limit);
    const stranger = await beginOrder();
    const [answer] = (await once(stranger.setEncoding('utf8'), 'data')) as [string];
    stranger.destroy();
    assert.match(answer, /^HTTP\/1\.1 503 /);
    assert.match(answer, /\r\nretry-after: 1\r\n/i);
    assert.match(answer, /\r\ncontent-type: application\/problem\+json\r\n/i);
    assert.match(answer, /\r\nx-content-type-options: nosniff\r\n/i);
    const body = answer.slice(answer.indexOf('\r\n\r\n'));
    const problem = JSON.parse(body) as Record<string, unknown>;
    assert.equal(problem.reason, 'OVERLOADED');
    assert.match(String(problem.instance), /^urn:sluice:request:/);
    assert.equal(await metric('edge_orders_refused_at_door_total'), 1);

    const read = await fetch(`${edge.url}/v1/orders`, { headers: bearer(1n) });
    assert.equal(read.status, 200, 'whoever reads is let in');
  } finally {
    peers.hold = undefined;
    release();
  }
  assert.deepEqual(await Promise.all(answers), Array(limit).fill(201));
  assert.equal(await order(100), 201);
});

test('a request that has not arrived wholly holds no place', async () => {
  const { authorization } = bearer(1n);
  const begun = await Promise.all(
    Array.from({ length: 3 * limit }, () => beginOrder(authorization)),
  );
  try {
    await until(async () => (await metric('http_connections')) >= begun.length);
    for (let number = 1; number <= limit; number += 1) assert.equal(await order(number), 201);
    assert.equal(await metric('edge_orders_under_way'), 0);
  } finally {
    for (const socket of begun) socket.destroy();
  }
});
