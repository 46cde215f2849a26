import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { isLoopback } from '../../services/edge/config.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { Peers, type ProblemBody, type RunningEdge, startEdge, startPeers } from './support.ts';

const peers = new Peers();
let server: Awaited<ReturnType<typeof startPeers>>;
let demo: RunningEdge;
let behindProxy: RunningEdge;

before(async () => {
  server = await startPeers(peers);
  demo = await startEdge(server.port, { SLUICE_DEMO: '1', SLUICE_TOKEN_SECRET: demoTokenSecret });
  behindProxy = await startEdge(server.port, {
    SLUICE_DEMO: '1',
    SLUICE_TRUSTED_PROXIES: '127.0.0.1',
  });
});

after(async () => {
  await demo.stop();
  await behindProxy.stop();
  await server.stop();
});

function ask(
  edge: RunningEdge,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${edge.url}/v1/demo/token`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
}

test('demo mode hands out a token of the user that it works for', async () => {
  const response = await ask(demo, { userId: '1001' });
  assert.equal(response.status, 200);
  const { token, expireTime } = (await response.json()) as { token: string; expireTime: string };
  assert.ok(Date.parse(expireTime) > Date.now());
  const headers = { authorization: `Bearer ${token}` };
  assert.equal((await fetch(`${demo.url}/v1/orders`, { headers })).status, 200);
  const asked = peers.asked.findLast(({ method }) => method === 'listOrders');
  assert.deepEqual(asked?.request, { userId: 1_001n, pageSize: 0, pageToken: '' });
  const admin = await fetch(`${demo.url}/v1/admin/skus/7/layers`, { headers });
  assert.equal(admin.status, 403);
});

test('a token with the role admin opens the operators’ routes', async () => {
  const { token } = (await (await ask(behindProxy, { userId: 1, role: 'admin' })).json()) as {
    token: string;
  };
  const headers = { authorization: `Bearer ${token}` };
  const response = await fetch(`${behindProxy.url}/v1/admin/skus/7/layers`, { headers });
  assert.equal(response.status, 200);
});

const bad: [name: string, body: unknown, field: string][] = [
  ['no user', {}, 'userId'],
  ['user 0', { userId: '0' }, 'userId'],
  ['an unsafe integer', { userId: 2 ** 53 }, 'userId'],
  ['another role', { userId: '1', role: 'root' }, 'role'],
  ['a role that is no string', { userId: '1', role: 1 }, 'role'],
  ['an unknown field', { userId: '1', ttl: 1 }, 'ttl'],
];

for (const [name, body, field] of bad) {
  test(`${name} is refused, naming ${field}`, async () => {
    const response = await ask(demo, body);
    assert.equal(response.status, 400);
    const { violations } = (await response.json()) as ProblemBody;
    assert.equal(violations?.[0]?.field, field);
  });
}

test('outside demo mode there is no such route', async () => {
  const edge = await startEdge(server.port);
  try {
    assert.equal((await ask(edge, { userId: '1' })).status, 404);
  } finally {
    await edge.stop();
  }
});

test('a client behind a configured proxy gets none unless it is this machine', async () => {
  assert.equal(
    (await ask(behindProxy, { userId: '1' }, { 'x-forwarded-for': '127.0.0.1' })).status,
    200,
  );
  const far = await ask(behindProxy, { userId: '1' }, { 'x-forwarded-for': '203.0.113.9' });
  assert.equal(far.status, 403);
  assert.equal(((await far.json()) as ProblemBody).reason, 'FORBIDDEN');
});

for (const name of ['x-forwarded-for', 'forwarded']) {
  test(`a ${name} header from nobody that is trusted gets none, whatever it says`, async () => {
    const value = name === 'forwarded' ? 'for=127.0.0.1' : '127.0.0.1';
    assert.equal((await ask(demo, { userId: '1' }, { [name]: value })).status, 403);
  });
}

test('loopback is told from other addresses', () => {
  for (const address of ['127.0.0.1', '127.8.9.1', '::1', '::ffff:127.0.0.1']) {
    assert.ok(isLoopback(address), address);
  }
  for (const address of ['10.0.0.1', '::2', '::ffff:10.0.0.1', 'localhost', '']) {
    assert.ok(!isLoopback(address), address);
  }
});
