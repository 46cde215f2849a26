import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sku } from './fake-stock.ts';
import { bearer, type ProblemBody, until, useEdge } from './support.ts';

const edge = useEdge();
const { peers } = edge;

const skuAsJson = {
  skuId: '7',
  title: 'A "quoted" thing',
  unitPrice: { currencyCode: 'USD', minorUnits: '1999' },
  openTime: null,
  closeTime: '2027-02-01T00:00:00.000Z',
  limitPerUser: 0,
  paused: false,
  settingsVersion: '1',
  supplied: '10',
  available: '7',
  held: '3',
  sold: '0',
  epoch: '1',
  createTime: '2027-01-01T00:00:00.000Z',
  updateTime: '2027-01-01T00:00:00.000Z',
};

test('SKUs are listed for everybody, with the time of the server', async () => {
  const response = await fetch(`${edge.url}/v1/skus`);
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), {
    skus: [skuAsJson],
    nextPageToken: '',
    serverTime: '2027-01-15T00:00:00.000Z',
  });
});

test('one SKU is read, and an unknown one is not found', async () => {
  assert.deepEqual(await (await fetch(`${edge.url}/v1/skus/7`)).json(), skuAsJson);
  assert.equal((await fetch(`${edge.url}/v1/skus/8`)).status, 404);
});

test('stock is answered from memory and follows the gate', async () => {
  const read = async (): Promise<{ stocks: { skuId: string; available: string }[] }> => {
    const response = await fetch(`${edge.url}/v1/stock?skuId=7&skuId=8`);
    return (await response.json()) as Awaited<ReturnType<typeof read>>;
  };
  assert.deepEqual(await read(), {
    stocks: [
      { skuId: '7', loaded: true, available: '7', paused: false },
      { skuId: '8', loaded: true, available: '7', paused: false },
    ],
  });
  peers.available = 6n;
  await until(async () => (await read()).stocks.every(({ available }) => available === '6'));
});

test('400 page loads in one moment are all answered, by a handful of calls', async () => {
  const paths = ['/v1/skus', '/v1/skus/7', '/v1/stock?skuId=7', '/v1/skus?pageSize=10'];
  peers.asked.length = 0;
  const loads = Array.from({ length: 100 }, () => paths).flat();
  const responses = await Promise.all(loads.map((path) => fetch(`${edge.url}${path}`)));
  assert.deepEqual(new Set(responses.map(({ status }) => status)), new Set([200]));
  await Promise.all(responses.map((response) => response.arrayBuffer()));
  // One for each thing and 200 ms; a machine that pauses takes some of these.
  assert.ok(peers.asked.length <= loads.length / 4, `stock was asked ${peers.asked.length} times`);
});

test('a SKU is read again after a moment, and what stock refuses is told as it is', async () => {
  const before = peers.asked.length;
  await until(async () => {
    assert.equal((await fetch(`${edge.url}/v1/skus/7`)).status, 200);
    return peers.asked.length >= before + 2;
  });
  const bad = await fetch(`${edge.url}/v1/skus?pageToken=${'x'.repeat(400)}`);
  assert.equal(bad.status, 200, 'a token is what stock says it is');
});

const admin = bearer(1n, 'admin');

function send(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${edge.url}/v1/admin${path}`, {
    method,
    headers: {
      ...admin,
      ...headers,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

const asked = (method: string): unknown =>
  peers.asked.findLast((call) => call.method === method)?.request;

test('an operator creates a SKU with the token forwarded', async () => {
  const response = await send('POST', '/skus', {
    skuId: '12',
    title: 'New',
    unitPrice: { currencyCode: 'EUR', minorUnits: '500' },
    supplied: 40,
    openTime: '2027-01-31T10:00:00+01:00',
    limitPerUser: 2,
  });
  assert.equal(response.status, 201);
  assert.equal(response.headers.get('location'), '/v1/skus/12');
  assert.deepEqual(asked('createSku'), {
    skuId: 12n,
    title: 'New',
    unitPrice: { currencyCode: 'EUR', minorUnits: 500n },
    supplied: 40n,
    openTime: new Date('2027-01-31T09:00:00Z'),
    closeTime: undefined,
    limitPerUser: 2,
    paused: false,
  });
});

test('an update carries only the settings that were sent', async () => {
  assert.equal(
    (await send('PATCH', '/skus/7', { paused: false, clearCloseTime: true })).status,
    200,
  );
  assert.deepEqual(asked('updateSku'), {
    skuId: 7n,
    title: undefined,
    unitPrice: undefined,
    openTime: undefined,
    closeTime: undefined,
    limitPerUser: undefined,
    paused: false,
    clearOpenTime: false,
    clearCloseTime: true,
  });
});

test('an adjustment is keyed by the Idempotency-Key and tells a replay', async () => {
  const response = await send(
    'POST',
    '/skus/7/adjust',
    { delta: '-5' },
    { 'idempotency-key': 'a1' },
  );
  assert.equal(response.status, 200);
  assert.equal(response.headers.get('idempotent-replayed'), 'true');
  assert.deepEqual(asked('adjustStock'), { skuId: sku.skuId, delta: -5n, requestId: 'a1' });
  assert.deepEqual(await response.json(), { sku: skuAsJson, replayed: true });
});

test('a rebuild answers the epoch, and the layers stand side by side', async () => {
  const rebuilt = await send('POST', '/skus/7/rebuild');
  assert.deepEqual(await rebuilt.json(), { epoch: '2', available: '7' });
  const layers = await send('GET', '/skus/7/layers');
  assert.deepEqual(await layers.json(), {
    gate: {
      loaded: true,
      available: '7',
      pendingOrders: '0',
      oldestPendingAgeMs: '0',
      epoch: '1',
      buyers: '2',
      state: 'open',
    },
    ledger: skuAsJson,
  });
});

const bad: [name: string, method: string, path: string, body: unknown, fields: string[]][] = [
  ['an empty body', 'POST', '/skus', undefined, ['body']],
  ['a wrong type everywhere', 'POST', '/skus', badSku(), Object.keys(badSku())],
  ['an amount that is unsafe', 'POST', '/skus', price(2 ** 53), ['unitPrice.minorUnits']],
  ['an amount with a fraction', 'POST', '/skus', price(1.5), ['unitPrice.minorUnits']],
  [
    'an unknown field of the price',
    'PATCH',
    '/skus/7',
    { unitPrice: { cents: 1 } },
    ['unitPrice.cents'],
  ],
  ['a SKU id in the body of an update', 'PATCH', '/skus/7', { skuId: '8' }, ['skuId']],
  ['31 February', 'PATCH', '/skus/7', { openTime: '2027-02-31T00:00:00Z' }, ['openTime']],
  ['a time without a zone', 'PATCH', '/skus/7', { openTime: '2027-02-01T00:00:00' }, ['openTime']],
  ['a limit beyond 32 bits', 'PATCH', '/skus/7', { limitPerUser: 2 ** 31 }, ['limitPerUser']],
  ['an adjustment without a key', 'POST', '/skus/7/adjust', { delta: 1 }, ['Idempotency-Key']],
  [
    'an adjustment beyond 64 bits',
    'POST',
    '/skus/7/adjust',
    { delta: '9223372036854775808' },
    ['delta', 'Idempotency-Key'],
  ],
  ['a field in a rebuild', 'POST', '/skus/7/rebuild', { now: true }, ['now']],
];

function badSku(): Record<string, unknown> {
  return {
    skuId: 'x',
    title: 5,
    unitPrice: 'free',
    supplied: '1.5',
    openTime: 'soon',
    closeTime: 5,
    limitPerUser: 'two',
    paused: 'no',
  };
}

function price(minorUnits: number): unknown {
  return { unitPrice: { currencyCode: 'USD', minorUnits } };
}

for (const [name, method, path, body, fields] of bad) {
  test(`${name} is refused, naming ${fields.join(', ')}`, async () => {
    const response = await send(method, path, body);
    assert.equal(response.status, 400);
    const { violations } = (await response.json()) as ProblemBody;
    assert.deepEqual(
      violations?.map(({ field }) => field),
      fields,
    );
  });
}
