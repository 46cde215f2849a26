import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bearer, type ProblemBody, useEdge } from './support.ts';

const edge = useEdge();
const { peers } = edge;

const good = '{"lines":[{"skuId":"1","quantity":1}]}';
const line = (text: string): string => `{"lines":[${text}]}`;

/** Bodies of POST /v1/orders and the fields that the answer must name, in order. */
const badBodies: [name: string, body: string, fields: string[]][] = [
  ['no body', '', ['body']],
  ['a list', '[]', ['body']],
  ['null', 'null', ['body']],
  ['a string', '"x"', ['body']],
  ['no lines', '{}', ['lines']],
  ['lines of null', '{"lines":null}', ['lines']],
  ['lines that are no list', '{"lines":{"skuId":"1","quantity":1}}', ['lines']],
  ['no line', '{"lines":[]}', ['lines']],
  ['21 lines', line(Array(21).fill('{"skuId":"1","quantity":1}').join()), ['lines']],
  ['a line of null', line('null'), ['lines[0]']],
  ['a line that is a number', line('1'), ['lines[0]']],
  ['a line that is a list', line('[1]'), ['lines[0]']],
  ['an empty line', line('{}'), ['lines[0].skuId', 'lines[0].quantity']],
  ['no SKU', line('{"quantity":1}'), ['lines[0].skuId']],
  ['SKU 0', line('{"skuId":"0","quantity":1}'), ['lines[0].skuId']],
  ['a negative SKU', line('{"skuId":"-1","quantity":1}'), ['lines[0].skuId']],
  [
    'a SKU beyond 63 bits',
    line('{"skuId":"9223372036854775808","quantity":1}'),
    ['lines[0].skuId'],
  ],
  ['a SKU of 30 digits', line(`{"skuId":"${'9'.repeat(30)}","quantity":1}`), ['lines[0].skuId']],
  ['a SKU that is no number', line('{"skuId":"seven","quantity":1}'), ['lines[0].skuId']],
  ['a SKU in hexadecimal', line('{"skuId":"0x10","quantity":1}'), ['lines[0].skuId']],
  ['a SKU with a fraction', line('{"skuId":1.5,"quantity":1}'), ['lines[0].skuId']],
  ['a SKU that is true', line('{"skuId":true,"quantity":1}'), ['lines[0].skuId']],
  ['a SKU that is an empty string', line('{"skuId":"","quantity":1}'), ['lines[0].skuId']],
  ['an unsafe JSON integer', line('{"skuId":9007199254740993,"quantity":1}'), ['lines[0].skuId']],
  [
    'the first unsafe JSON integer',
    line('{"skuId":9007199254740992,"quantity":1}'),
    ['lines[0].skuId'],
  ],
  ['a number that is infinite', line('{"skuId":1e999,"quantity":1}'), ['lines[0].skuId']],
  ['no quantity', line('{"skuId":"1"}'), ['lines[0].quantity']],
  ['quantity 0', line('{"skuId":"1","quantity":0}'), ['lines[0].quantity']],
  ['a negative quantity', line('{"skuId":"1","quantity":-1}'), ['lines[0].quantity']],
  ['quantity 1,001', line('{"skuId":"1","quantity":1001}'), ['lines[0].quantity']],
  ['a huge quantity', line('{"skuId":"1","quantity":1e300}'), ['lines[0].quantity']],
  ['a quantity with a fraction', line('{"skuId":"1","quantity":1.5}'), ['lines[0].quantity']],
  ['a quantity that is no number', line('{"skuId":"1","quantity":"many"}'), ['lines[0].quantity']],
  ['an unknown field', '{"lines":[{"skuId":"1","quantity":1}],"price":1}', ['price']],
  [
    'a user id, which the token has',
    '{"userId":"5","lines":[{"skuId":"1","quantity":1}]}',
    ['userId'],
  ],
  [
    'an unknown field of a line',
    line('{"skuId":"1","quantity":1,"unitPrice":1}'),
    ['lines[0].unitPrice'],
  ],
  [
    'a field named __proto__',
    '{"__proto__":{"lines":1},"lines":[{"skuId":"1","quantity":1}]}',
    ['__proto__'],
  ],
  [
    'faults in several lines',
    line('{"skuId":"1","quantity":1},{"skuId":"x","quantity":0},{"skuId":"2"}'),
    ['lines[1].skuId', 'lines[1].quantity', 'lines[2].quantity'],
  ],
];

async function post(body: string | Buffer, headers: Record<string, string>): Promise<Response> {
  const all = { 'content-type': 'application/json', ...bearer(1n), ...headers };
  const present = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ''));
  return fetch(`${edge.url}/v1/orders`, { method: 'POST', headers: present, body });
}

async function assertRefused(response: Response, fields: string[]): Promise<ProblemBody> {
  assert.equal(response.status, 400);
  assert.equal(response.headers.get('content-type'), 'application/problem+json');
  const problem = (await response.json()) as ProblemBody;
  assert.equal(problem.reason, 'INVALID_REQUEST');
  assert.equal(problem.type, 'https://sluice.dev/problems/invalid-request');
  assert.deepEqual(
    problem.violations?.map(({ field }) => field),
    fields,
  );
  assert.equal(peers.asked.length, 0, 'nothing reached the order service');
  return problem;
}

for (const [name, body, fields] of badBodies) {
  test(`an order with ${name} is refused, naming ${fields.join(' and ')}`, async () => {
    await assertRefused(await post(body, { 'idempotency-key': 'k' }), fields);
  });
}

/** Keys that a client can send in a header at all. */
const badKeys: [name: string, key: string][] = [
  ['no key', ''],
  ['a key of 129 characters', 'k'.repeat(129)],
  ['a key of 300 characters', 'k'.repeat(300)],
  ['a key with a character beyond ASCII', 'caf\u00e9'],
  ['a key with a tab', 'a\tb'],
];

for (const [name, key] of badKeys) {
  test(`an order with ${name} is refused, naming Idempotency-Key`, async () => {
    await assertRefused(await post(good, { 'idempotency-key': key }), ['Idempotency-Key']);
  });
}

const malformed: [name: string, body: string | Buffer, place: RegExp][] = [
  ['a missing value', '{"lines":}', /line 1, column 10/],
  ['a trailing comma', '{"lines":[1,]}', /line 1, column 13/],
  ['a body that is cut off', '{"lines":[', /unexpected end at line 1, column 11/],
  ['an error in the third line', '{\n "lines": [\n  x]\n}', /line 3, column 3/],
  ['text behind the object', '{} {}', /line 1, column 4/],
  ['single quotes', "{'lines':1}", /line 1, column 2/],
  ['a number with a leading zero', '{"lines":01}', /line 1, column 11/],
  ['nothing but brackets', '['.repeat(16_000), /unexpected end/],
  ['bytes that are not UTF-8', Buffer.from([0x22, 0xff, 0x22]), /UTF-8/],
];

for (const [name, body, place] of malformed) {
  test(`${name} is refused as malformed JSON, telling where`, async () => {
    const problem = await assertRefused(await post(body, { 'idempotency-key': 'k' }), ['body']);
    assert.match(problem.violations?.[0]?.description ?? '', place);
  });
}

const badUrls: [path: string, field: string][] = [
  ['/v1/orders/0', 'orderId'],
  ['/v1/orders/-1', 'orderId'],
  ['/v1/orders/abc', 'orderId'],
  ['/v1/orders/9223372036854775808', 'orderId'],
  ['/v1/orders/1x/history', 'orderId'],
  ['/v1/orders?pageSize=0', 'pageSize'],
  ['/v1/orders?pageSize=101', 'pageSize'],
  ['/v1/orders?pageSize=ten', 'pageSize'],
  ['/v1/orders?pageSize=1&pageSize=2', 'pageSize'],
  ['/v1/orders?page_size=1', 'page_size'],
  ['/v1/skus/0', 'skuId'],
  ['/v1/skus?pageSize=-1', 'pageSize'],
  ['/v1/stock', 'skuId'],
  ['/v1/stock?skuId=0', 'skuId'],
  ['/v1/stock?skuId=1&skuId=x', 'skuId'],
  ['/v1/stock?sku=1', 'sku'],
  [`/v1/stock?${Array(101).fill('skuId=1').join('&')}`, 'skuId'],
];

for (const [path, field] of badUrls) {
  test(`GET ${path.slice(0, 40)} is refused, naming ${field}`, async () => {
    const response = await fetch(`${edge.url}${path}`, { headers: bearer(1n) });
    assert.equal(response.status, 400);
    const { violations } = (await response.json()) as ProblemBody;
    assert.ok(violations?.some((violation) => violation.field === field));
    assert.equal(peers.asked.length, 0);
  });
}
