import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig } from '../../services/edge/config.ts';
import { bearer, Peers, startEdge, startPeers, until } from './support.ts';

test('a stopping edge turns unready, finishes the order under way and then refuses connections', async () => {
  const peers = new Peers();
  const server = await startPeers(peers);
  // Long enough to look at it meanwhile, also where the machine pauses.
  const edge = await startEdge(server.port, { SLUICE_EDGE_DRAIN_MS: '4000' });
  try {
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 200);
    const { promise, resolve } = Promise.withResolvers<void>();
    peers.hold = promise;
    const order = fetch(`${edge.url}/v1/orders`, {
      method: 'POST',
      headers: { ...bearer(1n), 'content-type': 'application/json', 'idempotency-key': 'k' },
      body: '{"lines":[{"skuId":"1","quantity":1}]}',
    });
    await until(async () => peers.batches.length === 1);
    const stopped = edge.stop();
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 503);
    assert.equal((await fetch(`${edge.metricsUrl}/readyz`)).status, 503);
    assert.equal((await fetch(`${edge.url}/healthz`)).status, 200);
    resolve();
    assert.equal((await order).status, 201);
    await stopped;
    await assert.rejects(fetch(`${edge.url}/healthz`));
    await assert.rejects(fetch(`${edge.metricsUrl}/healthz`));
  } finally {
    await edge.stop();
    await server.stop();
  }
});

test('a stopping edge sends its clients elsewhere while it still serves them', async () => {
  const peers = new Peers();
  const server = await startPeers(peers);
  const edge = await startEdge(server.port, { SLUICE_EDGE_DRAIN_MS: '3000' });
  try {
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 200);
    const before = await fetch(`${edge.url}/healthz`);
    assert.notEqual(before.headers.get('connection'), 'close');
    const stopped = edge.stop();
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 503);
    const during = await fetch(`${edge.url}/healthz`);
    assert.equal(during.status, 200);
    assert.equal(during.headers.get('connection'), 'close', 'the next request goes elsewhere');
    await stopped;
  } finally {
    await edge.stop();
    await server.stop();
  }
});

test('an order that is answered while the server closes takes its connection with it', async () => {
  const peers = new Peers();
  const server = await startPeers(peers);
  const edge = await startEdge(server.port);
  try {
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 200);
    const { promise, resolve } = Promise.withResolvers<void>();
    peers.hold = promise;
    const order = fetch(`${edge.url}/v1/orders`, {
      method: 'POST',
      headers: { ...bearer(1n), 'content-type': 'application/json', 'idempotency-key': 'k' },
      body: '{"lines":[{"skuId":"1","quantity":1}]}',
    });
    await until(async () => peers.batches.length === 1);
    const stopped = edge.stop();
    await until(() =>
      fetch(`${edge.url}/healthz`).then(
        () => false,
        () => true,
      ),
    );
    resolve();
    const { status, headers } = await order;
    assert.equal(status, 201);
    assert.equal(headers.get('connection'), 'close', 'nobody waits for a next request on it');
    await stopped;
  } finally {
    await edge.stop();
    await server.stop();
  }
});

test('an edge whose services are away is alive and not ready, and names them', async () => {
  const edge = await startEdge(1);
  try {
    assert.equal((await fetch(`${edge.url}/healthz`)).status, 200);
    for (const url of [edge.url, edge.metricsUrl]) {
      const response = await fetch(`${url}/readyz`);
      assert.equal(response.status, 503);
      const { waitingFor } = (await response.json()) as { waitingFor: string[] };
      assert.deepEqual(waitingFor, ['order', 'stock']);
    }
    const order = await fetch(`${edge.url}/v1/orders/1`, { headers: bearer(1n) });
    assert.equal(order.status, 503);
    assert.ok(Number(order.headers.get('retry-after')) >= 1);
  } finally {
    await edge.stop();
  }
});

test('metrics count requests by route, never by id', async () => {
  const peers = new Peers();
  const server = await startPeers(peers);
  const edge = await startEdge(server.port);
  try {
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 200);
    await fetch(`${edge.url}/v1/orders/123456789`, { headers: bearer(1n) });
    const counted =
      /http_request_duration_seconds_count\{(?=[^}]*route="\/v1\/orders\/:id")(?=[^}]*status="404")[^}]*\} 1/;
    let text = '';
    // A request is counted when its answer has left, which its client may notice earlier.
    await until(async () => {
      text = await (await fetch(`${edge.metricsUrl}/metrics`)).text();
      return counted.test(text);
    });
    assert.doesNotMatch(text, /123456789/);
  } finally {
    await edge.stop();
    await server.stop();
  }
});

test('bad settings are named, and the demo secret is refused outside demo mode', () => {
  assert.throws(
    () =>
      readConfig({
        SLUICE_EDGE_PORT: '70000',
        SLUICE_ORDER_ADDRESS: 'nowhere',
        SLUICE_DEMO: 'maybe',
      }),
    ({ message }: Error) =>
      ['SLUICE_EDGE_PORT', 'SLUICE_ORDER_ADDRESS', 'SLUICE_DEMO', 'SLUICE_TOKEN_SECRET'].every(
        (name) => message.includes(name),
      ),
  );
  const secret = { SLUICE_TOKEN_SECRET: 'x'.repeat(32) };
  for (const proxies of ['10.0.0.0/33', 'proxy.internal', '10.0.0.0/8/8', '::1/129']) {
    assert.throws(() => readConfig({ ...secret, SLUICE_TRUSTED_PROXIES: proxies }), {
      message: /SLUICE_TRUSTED_PROXIES/,
    });
  }
  const proxies = '10.0.0.0/8, ::1';
  const { trustedProxies } = readConfig({ ...secret, SLUICE_TRUSTED_PROXIES: proxies });
  assert.deepEqual(trustedProxies, ['10.0.0.0/8', '::1']);
});
