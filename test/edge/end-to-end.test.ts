import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { type System, startSystem } from '../support/system.ts';
import { patientFetch } from './patient-fetch.ts';
import type { ProblemBody } from './support.ts';

// The whole way on real processes: HTTP, edge, order, stock, Redis, MySQL.

let system: System;
let url: string;
let admin: Record<string, string>;
const skuId = '7001';

before(async () => {
  system = await startSystem({ name: 'edge', edge: true });
  url = `http://127.0.0.1:${system.edge?.port}`;
  admin = await token('1', 'admin');
});

after(() => system?.close());

async function token(userId: string, role?: string): Promise<Record<string, string>> {
  const response = await send('POST', '/v1/demo/token', {}, role ? { userId, role } : { userId });
  const body = (await response.json()) as { token: string };
  return { authorization: `Bearer ${body.token}` };
}

function send(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: unknown,
): Promise<Response> {
  return patientFetch(`${url}${path}`, {
    method,
    headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

function order(
  caller: Record<string, string>,
  key: string,
  lines: { skuId: string; quantity: number }[],
): Promise<Response> {
  return send('POST', '/v1/orders', { ...caller, 'idempotency-key': key }, { lines });
}

async function createSku(id: string, settings: Record<string, unknown>): Promise<void> {
  const unitPrice = { currencyCode: 'EUR', minorUnits: '1999' };
  const body = { skuId: id, title: `Thing ${id}`, unitPrice, supplied: '10', ...settings };
  const response = await send('POST', '/v1/admin/skus', admin, body);
  assert.equal(response.status, 201, await response.clone().text());
  await eventually(async () => {
    const layers = await send('GET', `/v1/admin/skus/${id}/layers`, admin);
    return ((await layers.json()) as { gate: { loaded: boolean } }).gate.loaded;
  }, `the gate of SKU ${id} opens`);
}

interface OrderBody {
  readonly orderId: string;
  readonly status: string;
  readonly total: { readonly currencyCode: string; readonly minorUnits: string };
  readonly items: { readonly skuId: string; readonly quantity: number }[];
}

async function assertProblem(
  response: Response,
  status: number,
  reason: string,
): Promise<ProblemBody> {
  const problem = (await response.json()) as ProblemBody;
  assert.equal(problem.reason, reason);
  assert.equal(response.status, status);
  return problem;
}

test('an order is created, read, replayed and cancelled over HTTP', async () => {
  await createSku(skuId, {});
  const buyer = await token('1001');
  const created = await order(buyer, 'click', [
    { skuId, quantity: 1 },
    { skuId, quantity: 2 },
  ]);
  assert.equal(created.status, 201);
  const body = (await created.json()) as OrderBody;
  assert.equal(body.status, 'ORDER_STATUS_PENDING');
  assert.deepEqual(body.total, { currencyCode: 'EUR', minorUnits: '5997' });
  assert.deepEqual(
    body.items.map((item) => [item.skuId, item.quantity]),
    [[skuId, 3]],
  );
  const location = created.headers.get('location') ?? '';

  const read = await send('GET', location, buyer);
  assert.deepEqual(await read.json(), body);

  const replayed = await order(buyer, 'click', [{ skuId, quantity: 3 }]);
  assert.equal(replayed.status, 201);
  assert.equal(replayed.headers.get('idempotent-replayed'), 'true');
  assert.deepEqual(await replayed.json(), body);

  const other = await order(buyer, 'click', [{ skuId, quantity: 4 }]);
  await assertProblem(other, 422, 'IDEMPOTENCY_KEY_REUSED');

  const stranger = await token('1002');
  await assertProblem(await send('GET', location, stranger), 404, 'NOT_FOUND');
  await assertProblem(await send('POST', `${location}/cancel`, stranger), 404, 'NOT_FOUND');

  const cancelled = await send('POST', `${location}/cancel`, buyer);
  assert.equal(((await cancelled.json()) as OrderBody).status, 'ORDER_STATUS_CANCELLED');
  const history = (await (await send('GET', `${location}/history`, buyer)).json()) as {
    transitions: { toStatus: string }[];
  };
  assert.deepEqual(
    history.transitions.map(({ toStatus }) => toStatus),
    ['ORDER_STATUS_PENDING', 'ORDER_STATUS_CANCELLED'],
  );
});

test('pages of orders go newest first and end', async () => {
  await createSku('7002', { supplied: '100' });
  const buyer = await token('1003');
  const ids: string[] = [];
  for (let click = 0; click < 5; click += 1) {
    const response = await order(buyer, `click-${click}`, [{ skuId: '7002', quantity: 1 }]);
    ids.unshift(((await response.json()) as OrderBody).orderId);
  }
  const seen: string[] = [];
  let pageToken = '';
  do {
    const path = `/v1/orders?pageSize=2&pageToken=${encodeURIComponent(pageToken)}`;
    const page = (await (await send('GET', path, buyer)).json()) as {
      orders: OrderBody[];
      nextPageToken: string;
    };
    assert.ok(page.orders.length <= 2);
    seen.push(...page.orders.map(({ orderId }) => orderId));
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  assert.deepEqual(seen, ids);
  const bad = await send('GET', '/v1/orders?pageToken=nonsense', buyer);
  const { violations } = await assertProblem(bad, 400, 'INVALID_REQUEST');
  assert.equal(violations?.[0]?.field, 'pageToken');
});

test('business refusals are 409 with their reason and leave nothing held', async () => {
  await createSku('7003', { supplied: '2' });
  await createSku('7004', { limitPerUser: 1 });
  await createSku('7005', { openTime: new Date(Date.now() + 3_600_000).toISOString() });
  await createSku('7006', { paused: true });
  const buyer = await token('1004');
  const refusals: [sku: string, quantity: number, reason: string][] = [
    ['7003', 3, 'SOLD_OUT'],
    ['7004', 2, 'PURCHASE_LIMIT'],
    ['7005', 1, 'SALE_NOT_STARTED'],
    ['7006', 1, 'SKU_PAUSED'],
  ];
  for (const [sku, quantity, reason] of refusals) {
    const response = await order(buyer, `refused-${sku}`, [{ skuId: sku, quantity }]);
    assert.equal((await assertProblem(response, 409, reason)).skuId, sku);
    const read = (await (await send('GET', `/v1/skus/${sku}`)).json()) as Record<string, string>;
    assert.equal(read.held, '0');
    assert.equal(read.available, read.supplied);
  }
  const unknown = await order(buyer, 'refused-unknown', [{ skuId: '999999', quantity: 1 }]);
  await assertProblem(unknown, 404, 'NOT_FOUND');
});

test('display stock follows orders and adjustments, as the layers do', async () => {
  await createSku('7007', {});
  const buyer = await token('1005');
  const display = async (): Promise<string | undefined> => {
    const response = await send('GET', '/v1/stock?skuId=7007');
    const { stocks } = (await response.json()) as { stocks: { available: string }[] };
    return stocks[0]?.available;
  };
  assert.equal(await display(), '10');
  assert.equal((await order(buyer, 'one', [{ skuId: '7007', quantity: 4 }])).status, 201);
  await eventually(async () => (await display()) === '6', 'the edge shows 6');
  const adjust = { ...admin, 'idempotency-key': 'add-5' };
  for (const replayed of [false, true]) {
    const response = await send('POST', '/v1/admin/skus/7007/adjust', adjust, { delta: '5' });
    assert.equal(response.status, 200);
    assert.equal(((await response.json()) as { replayed: boolean }).replayed, replayed);
  }
  await eventually(async () => (await display()) === '11', 'the edge shows 11');
  const layers = (await (await send('GET', '/v1/admin/skus/7007/layers', admin)).json()) as {
    gate: { available: string };
    ledger: { available: string; supplied: string; held: string };
  };
  assert.equal(layers.gate.available, '11');
  assert.deepEqual(
    [layers.ledger.available, layers.ledger.supplied, layers.ledger.held],
    ['11', '15', '4'],
  );
});

const badSkus: [settings: Record<string, unknown>, field: string][] = [
  [{ skuId: '0' }, 'skuId'],
  [{ skuId: '-5' }, 'skuId'],
  [{ title: '' }, 'title'],
  [{ title: 'x'.repeat(201) }, 'title'],
  [{ unitPrice: { currencyCode: 'EUR', minorUnits: '-1' } }, 'unitPrice.minorUnits'],
  [{ unitPrice: { currencyCode: 'euro', minorUnits: '1' } }, 'unitPrice.currencyCode'],
  [{ supplied: '-1' }, 'supplied'],
  [{ supplied: '1000000001' }, 'supplied'],
  [{ limitPerUser: -1 }, 'limitPerUser'],
];

for (const [settings, field] of badSkus) {
  test(`a SKU with ${JSON.stringify(settings).slice(0, 60)} is refused, naming ${field}`, async () => {
    const unitPrice = { currencyCode: 'EUR', minorUnits: '1999' };
    const body = { skuId: '7100', title: 'Thing', unitPrice, supplied: '10', ...settings };
    const response = await send('POST', '/v1/admin/skus', admin, body);
    const { violations } = await assertProblem(response, 400, 'INVALID_REQUEST');
    assert.ok(
      violations?.some((violation) => violation.field === field),
      JSON.stringify(violations),
    );
  });
}

test('when the order service is away, an order is 503 with Retry-After, and works again later', async () => {
  await createSku('7008', {});
  const buyer = await token('1006');
  // Each asks once: here the refusal is looked at.
  const place = (): Promise<Response> => {
    const headers = { ...buyer, 'idempotency-key': 'away', 'content-type': 'application/json' };
    const body = JSON.stringify({ lines: [{ skuId: '7008', quantity: 1 }] });
    return fetch(`${url}/v1/orders`, { method: 'POST', headers, body });
  };
  await system.orders[0]?.kill();
  await eventually(async () => (await fetch(`${url}/readyz`)).status === 503, 'the edge notices');
  const away = await place();
  assert.ok(Number(away.headers.get('retry-after')) >= 1);
  await assertProblem(away, 503, 'DEPENDENCY_DOWN');
  await system.orders[0]?.restart();
  await eventually(async () => (await place()).status === 201, 'orders are taken again');
});
