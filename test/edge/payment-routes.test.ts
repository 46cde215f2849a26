import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import type { Payment } from '../../gen/sluice/payment/v1/payment.ts';
import { Refusal, type RefusalReason } from '../../services/runtime/refusals.ts';
import { payment } from './fake-payment.ts';
import { bearer, type ProblemBody, startEdge, useEdge } from './support.ts';

const edge = useEdge();
const { peers } = edge;

beforeEach(() => {
  peers.refusal = undefined;
  peers.asked.length = 0;
});

const orderPayments = '/v1/orders/9007199254740995/payments';
const onePayment = '/v1/payments/9007199254740993';
const adminPayment = '/v1/admin/payments/9007199254740993';
const refunds = `${adminPayment}/refunds`;
const buyer = bearer(1_001n);
const operator = bearer(1n, 'admin');

function get(path: string, caller: Record<string, string> = buyer): Promise<Response> {
  return fetch(`${edge.url}${path}`, { headers: caller });
}

function post(
  path: string,
  headers: Record<string, string>,
  body?: string | Buffer,
): Promise<Response> {
  const type: Record<string, string> =
    body === undefined ? {} : { 'content-type': 'application/json' };
  const all = { method: 'POST', headers: { ...type, ...headers } };
  return fetch(`${edge.url}${path}`, body === undefined ? all : { ...all, body });
}

const money = { currencyCode: 'USD', minorUnits: '9007199254740993' };
const paymentBody = {
  paymentId: '9007199254740993',
  orderId: '9007199254740995',
  userId: '1001',
  status: 'PAYMENT_STATUS_PENDING',
  amount: money,
  provider: 'simulator',
  providerReference: '',
  paymentUrl: 'http://127.0.0.1:8090/pay?session=a"b',
  refunds: [] as unknown[],
  createTime: '2027-01-02T03:04:05.678Z',
  updateTime: '2027-01-02T03:04:05.678Z',
  settlement: 'PAYMENT_SETTLEMENT_UNSPECIFIED',
  captured: null,
  failure: '',
  requestId: 'pay-1',
};
const refundBody = {
  refundId: '3',
  amount: { currencyCode: 'USD', minorUnits: '5' },
  status: 'REFUND_STATUS_PENDING',
  reason: 'It was "broken"',
  restock: false,
  createTime: '2027-01-02T03:04:05.678Z',
  requestId: 'refund-1',
  failure: '',
  updateTime: '2027-01-02T03:04:05.678Z',
};

for (const body of [undefined, '{}']) {
  test(`a payment opened with ${body ?? 'no'} body is 201 with its location and every field`, async () => {
    const response = await post(orderPayments, { ...buyer, 'idempotency-key': 'pay-1' }, body);
    assert.equal(response.status, 201);
    assert.equal(response.headers.get('content-type'), 'application/json');
    assert.equal(response.headers.get('location'), onePayment);
    assert.deepEqual(await response.json(), paymentBody);
    assert.deepEqual(peers.asked, [
      {
        method: 'createPayment',
        request: { orderId: 9_007_199_254_740_995n, userId: 1_001n, requestId: 'pay-1' },
      },
    ]);
  });
}

test('a payment is read with its refunds by its buyer, and by nobody else', async () => {
  const response = await get(onePayment);
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { ...paymentBody, refunds: [refundBody] });
  assert.equal((await get(onePayment, bearer(1_002n))).status, 404);
  const asked = peers.asked.map(({ request }) => (request as Payment).userId);
  assert.deepEqual(asked, [1_001n, 1_002n], 'never as an internal caller, who reads any payment');
});

test('the payments of an order are listed; of an order of somebody else there are none', async () => {
  const own = await get(orderPayments);
  assert.deepEqual(await own.json(), { payments: [paymentBody, paymentBody] });
  const other = await get(orderPayments, bearer(1_002n));
  assert.equal(other.status, 200);
  assert.deepEqual(await other.json(), { payments: [] });
});

test('an operator reads any payment', async () => {
  const response = await get(adminPayment, operator);
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { ...paymentBody, refunds: [refundBody] });
  assert.deepEqual(peers.asked[0]?.request, { paymentId: payment.paymentId, userId: 0n });
});

const goodRefunds: [body: string, request: Record<string, unknown>][] = [
  [
    '{"amount":{"currencyCode":"USD","minorUnits":"5"},"reason":"broken","restock":true}',
    { amount: { currencyCode: 'USD', minorUnits: 5n }, reason: 'broken', restock: true },
  ],
  ['{"reason":"all of it"}', { amount: undefined, reason: 'all of it', restock: false }],
  [
    '{"amount":{"currency_code":"USD","minor_units":7},"reason":"r","restock":null}',
    { amount: { currencyCode: 'USD', minorUnits: 7n }, reason: 'r', restock: false },
  ],
];

for (const [body, request] of goodRefunds) {
  test(`the refund ${body} is 201, with the operator's token passed on`, async () => {
    const response = await post(refunds, { ...operator, 'idempotency-key': 'refund-1' }, body);
    // Payment checks the token itself: without it the answer would be 401.
    assert.equal(response.status, 201);
    assert.equal(response.headers.get('location'), adminPayment);
    assert.deepEqual(await response.json(), refundBody);
    const { paymentId } = payment;
    assert.deepEqual(peers.asked[0]?.request, { paymentId, requestId: 'refund-1', ...request });
  });
}

const key = { 'idempotency-key': 'k' };
const amount = (text: string): string => `{"reason":"r","amount":${text}}`;
const usd = (minorUnits: string): string =>
  amount(`{"currencyCode":"USD","minorUnits":${minorUnits}}`);

/** Requests that are at fault, and the fields that the answer must name, in order. */
const bad: [
  name: string,
  path: string,
  headers: Record<string, string>,
  body: string | Buffer | undefined,
  fields: string[],
][] = [
  ['a payment without a key', orderPayments, {}, undefined, ['Idempotency-Key']],
  [
    'a payment with an empty key',
    orderPayments,
    { 'idempotency-key': '' },
    '{}',
    ['Idempotency-Key'],
  ],
  [
    'a payment with a key of 129 characters',
    orderPayments,
    { 'idempotency-key': 'k'.repeat(129) },
    undefined,
    ['Idempotency-Key'],
  ],
  [
    'a payment with a key beyond ASCII',
    orderPayments,
    { 'idempotency-key': 'caf\u00e9' },
    undefined,
    ['Idempotency-Key'],
  ],
  ['a payment of order 0', '/v1/orders/0/payments', key, undefined, ['orderId']],
  ['a payment of order -1', '/v1/orders/-1/payments', key, undefined, ['orderId']],
  ['a payment of order x', '/v1/orders/x/payments', key, undefined, ['orderId']],
  [
    'a payment of an order beyond 63 bits',
    '/v1/orders/9223372036854775808/payments',
    key,
    undefined,
    ['orderId'],
  ],
  ['a payment with an amount', orderPayments, key, '{"amount":"5"}', ['amount']],
  ['a payment with a user', orderPayments, key, '{"userId":"5"}', ['userId']],
  ['a payment with a list as its body', orderPayments, key, '[]', ['body']],
  ['a payment with null as its body', orderPayments, key, 'null', ['body']],
  ['a payment with text that is no JSON', orderPayments, key, '{', ['body']],
  ['a refund of payment 0', '/v1/admin/payments/0/refunds', key, '{"reason":"r"}', ['paymentId']],
  ['a refund of payment x', '/v1/admin/payments/x/refunds', key, '{"reason":"r"}', ['paymentId']],
  ['a refund without a key', refunds, {}, '{"reason":"r"}', ['Idempotency-Key']],
  [
    'a refund with a key of 129 characters',
    refunds,
    { 'idempotency-key': 'k'.repeat(129) },
    '{"reason":"r"}',
    ['Idempotency-Key'],
  ],
  ['a refund without a body', refunds, key, undefined, ['body']],
  ['a refund with a list as its body', refunds, key, '[]', ['body']],
  ['a refund with a number as its body', refunds, key, '5', ['body']],
  ['a refund of a plain number', refunds, key, amount('5'), ['amount']],
  ['a refund of a plain string', refunds, key, amount('"5 USD"'), ['amount']],
  ['a refund of a list', refunds, key, amount('[]'), ['amount']],
  ['a refund of an empty amount', refunds, key, amount('{}'), ['amount.minorUnits']],
  [
    'a refund without minor units',
    refunds,
    key,
    amount('{"currencyCode":"USD"}'),
    ['amount.minorUnits'],
  ],
  ['a refund of 0', refunds, key, usd('"0"'), ['amount.minorUnits']],
  ['a refund of -1', refunds, key, usd('"-1"'), ['amount.minorUnits']],
  ['a refund of the number -1', refunds, key, usd('-1'), ['amount.minorUnits']],
  ['a refund of 1.5', refunds, key, usd('1.5'), ['amount.minorUnits']],
  ['a refund of "1.50"', refunds, key, usd('"1.50"'), ['amount.minorUnits']],
  ['a refund of an unsafe number', refunds, key, usd('9007199254740993'), ['amount.minorUnits']],
  ['a refund beyond 63 bits', refunds, key, usd('"9223372036854775808"'), ['amount.minorUnits']],
  ['a refund of true', refunds, key, usd('true'), ['amount.minorUnits']],
  [
    'a refund in a currency that is a number',
    refunds,
    key,
    amount('{"currencyCode":840,"minorUnits":"5"}'),
    ['amount.currencyCode'],
  ],
  [
    'a refund with an unknown field in its amount',
    refunds,
    key,
    amount('{"currencyCode":"USD","minorUnits":"5","units":5}'),
    ['amount.units'],
  ],
  ['a refund with a reason that is a number', refunds, key, '{"reason":5}', ['reason']],
  [
    'a refund with restock that is a string',
    refunds,
    key,
    '{"reason":"r","restock":"true"}',
    ['restock'],
  ],
  ['a refund with an unknown field', refunds, key, '{"reason":"r","paymentId":"5"}', ['paymentId']],
  ['a refund that is no UTF-8', refunds, key, Buffer.from([0x22, 0xff, 0x22]), ['body']],
  [
    'a refund with several faults',
    refunds,
    {},
    '{"reason":1,"restock":1,"amount":{"minorUnits":"x"}}',
    ['Idempotency-Key', 'amount.minorUnits', 'reason', 'restock'],
  ],
];

for (const [name, path, headers, body, fields] of bad) {
  test(`${name} is refused, naming ${fields.join(' and ')}`, async () => {
    const response = await post(path, { ...operator, ...headers }, body);
    assert.equal(response.status, 400);
    const problem = (await response.json()) as ProblemBody;
    assert.equal(problem.reason, 'INVALID_REQUEST');
    assert.deepEqual(
      problem.violations?.map(({ field }) => field),
      fields,
    );
    assert.equal(peers.asked.length, 0, 'nothing reached the payment service');
  });
}

for (const path of ['/v1/payments/0', '/v1/payments/x', '/v1/admin/payments/-1']) {
  test(`GET ${path} is refused, naming paymentId`, async () => {
    const response = await get(path, operator);
    assert.equal(response.status, 400);
    assert.equal(((await response.json()) as ProblemBody).violations?.[0]?.field, 'paymentId');
    assert.equal(peers.asked.length, 0);
  });
}

const guarded: [method: string, path: string][] = [
  ['POST', orderPayments],
  ['GET', orderPayments],
  ['GET', onePayment],
  ['GET', adminPayment],
  ['POST', refunds],
];

for (const [method, path] of guarded) {
  test(`${method} ${path} needs a token, before the body is looked at`, async () => {
    for (const headers of [{}, { authorization: 'Bearer nonsense' }]) {
      const body = method === 'POST' ? { body: 'not JSON' } : {};
      const response = await fetch(`${edge.url}${path}`, { method, headers, ...body });
      assert.equal(response.status, 401);
      assert.equal(((await response.json()) as ProblemBody).reason, 'UNAUTHENTICATED');
    }
    const inUrl = `${edge.url}${path}?access_token=${buyer.authorization.slice(7)}`;
    assert.equal((await fetch(inUrl, { method })).status, 401, 'a token in a URL is none');
    assert.equal(peers.asked.length, 0);
  });
}

for (const [method, path] of guarded.slice(-2)) {
  test(`${method} ${path} needs the role admin`, async () => {
    for (const caller of [buyer, bearer(1n, 'Admin')]) {
      const response = await fetch(`${edge.url}${path}`, { method, headers: caller });
      assert.equal(response.status, 403);
      assert.equal(((await response.json()) as ProblemBody).reason, 'FORBIDDEN');
    }
    assert.equal(peers.asked.length, 0);
  });
}

const mapped: [reason: RefusalReason, status: number][] = [
  ['NOT_FOUND', 404],
  ['ILLEGAL_TRANSITION', 409],
  ['IDEMPOTENCY_KEY_REUSED', 422],
  ['OVERLOADED', 503],
  ['DEPENDENCY_DOWN', 503],
  ['OUTCOME_UNKNOWN', 504],
];

for (const [reason, status] of mapped) {
  test(`${reason} of payment is ${status} on each of its routes`, async () => {
    peers.refusal = new Refusal(reason, 'a sentence');
    const answers = [
      await post(orderPayments, { ...buyer, ...key }),
      await get(orderPayments),
      await get(onePayment),
      await get(adminPayment, operator),
      await post(refunds, { ...operator, ...key }, '{"reason":"r"}'),
    ];
    for (const answer of answers) {
      assert.equal(answer.status, status);
      assert.equal(((await answer.json()) as ProblemBody).reason, reason);
    }
  });
}

test('violations of payment are named by the fields of the HTTP request', async () => {
  peers.refusal = new Refusal('INVALID_REQUEST', undefined, {
    violations: [
      { field: 'amount.minor_units', description: 'is more than what is left' },
      { field: 'request_id', description: 'is taken' },
    ],
  });
  const response = await post(refunds, { ...operator, ...key }, '{"reason":"r"}');
  assert.deepEqual(
    ((await response.json()) as ProblemBody).violations?.map(({ field }) => field),
    ['amount.minorUnits', 'Idempotency-Key'],
  );
});

test('without payment the edge is ready, its payment routes are 503 and all others work', async () => {
  const alone = await startEdge(edge.peersPort, { SLUICE_PAYMENT_ADDRESS: '127.0.0.1:1' });
  try {
    assert.equal((await fetch(`${alone.url}/v1/orders`, { headers: buyer })).status, 200);
    assert.equal((await fetch(`${alone.url}/v1/skus`)).status, 200);
    assert.equal((await fetch(`${alone.url}/readyz`)).status, 200);
    const headers = { ...operator, ...key, 'content-type': 'application/json' };
    const answers = [
      await fetch(`${alone.url}${orderPayments}`, { method: 'POST', headers }),
      await fetch(`${alone.url}${orderPayments}`, { headers: buyer }),
      await fetch(`${alone.url}${onePayment}`, { headers: buyer }),
      await fetch(`${alone.url}${refunds}`, { method: 'POST', headers, body: '{"reason":"r"}' }),
      await fetch(`${alone.url}/v1/webhooks/simulator`, { method: 'POST', body: 'x' }),
    ];
    for (const answer of answers) {
      assert.equal(answer.status, 503);
      assert.ok(Number(answer.headers.get('retry-after')) >= 1);
      assert.equal(((await answer.json()) as ProblemBody).reason, 'DEPENDENCY_DOWN');
    }
  } finally {
    await alone.stop();
  }
});
