import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { bearer, type ProblemBody, useEdge } from './support.ts';

const edge = useEdge();

async function assertProblem(response: Response, status: number, reason: string): Promise<void> {
  assert.equal(response.status, status);
  assert.equal(response.headers.get('content-type'), 'application/problem+json');
  const problem = (await response.json()) as ProblemBody;
  assert.equal(problem.status, status);
  assert.equal(problem.reason, reason);
  assert.ok(problem.title.length > 0 && problem.detail.length > 0);
}

const json = { 'content-type': 'application/json', 'idempotency-key': 'k' };

function post(headers: Record<string, string>, body: string): Promise<Response> {
  const all = { ...bearer(1n), ...headers };
  return fetch(`${edge.url}/v1/orders`, { method: 'POST', headers: all, body });
}

/** Sends bytes as they are and reads until the server closes. */
function raw(text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(edge.port, '127.0.0.1', () => socket.write(text));
    socket.on('data', (chunk) => {
      answer += chunk;
    });
    socket.on('close', () => resolve(answer));
    // A server that closes with bytes unread resets the connection: what it has answered before counts.
    socket.on('error', (error) => {
      if (answer === '') reject(error);
    });
  });
}

for (const path of ['/', '/v1', '/v1/order', '/v1/orders/1/pay', '/V1/orders', '/metrics']) {
  test(`there is nothing at ${path}`, async () => {
    await assertProblem(await fetch(`${edge.url}${path}`), 404, 'NOT_FOUND');
    const headers = { 'content-type': 'text/plain' };
    const posted = await fetch(`${edge.url}${path}`, { method: 'POST', headers, body: 'x' });
    await assertProblem(posted, 404, 'NOT_FOUND');
  });
}

const wrongMethods: [method: string, path: string, allow: string][] = [
  ['DELETE', '/v1/orders', 'GET, HEAD, POST'],
  ['PUT', '/v1/orders/1', 'GET, HEAD'],
  ['GET', '/v1/orders/1/cancel', 'POST'],
  ['POST', '/v1/skus/1', 'GET, HEAD'],
  ['OPTIONS', '/v1/stock?skuId=1', 'GET, HEAD'],
  ['GET', '/v1/admin/skus/1', 'PATCH'],
];

for (const [method, path, allow] of wrongMethods) {
  test(`${method} ${path} is 405 and names the methods that are allowed`, async () => {
    const response = await fetch(`${edge.url}${path}`, { method });
    assert.equal(response.headers.get('allow'), allow);
    await assertProblem(response, 405, 'METHOD_NOT_ALLOWED');
  });
}

for (const type of [
  'text/plain',
  'application/x-www-form-urlencoded',
  'application/xml',
  'nonsense',
]) {
  test(`a body of ${type} is 415`, async () => {
    const response = await post({ ...json, 'content-type': type }, '{}');
    await assertProblem(response, 415, 'UNSUPPORTED_MEDIA_TYPE');
  });
}

test('a body without a content type is 415', async () => {
  const { authorization } = bearer(1n);
  const answer = await raw(
    `POST /v1/orders HTTP/1.1\r\nhost: a\r\nauthorization: ${authorization}\r\n` +
      'connection: close\r\ncontent-length: 2\r\n\r\n{}',
  );
  assert.match(answer, /^HTTP\/1\.1 415 /);
});

test('application/json with a charset is taken', async () => {
  const type = 'application/json; charset=utf-8';
  const order = '{"lines":[{"skuId":"1","quantity":1}]}';
  assert.equal((await post({ ...json, 'content-type': type }, order)).status, 201);
});

test('a body of 16 KiB is read and one byte more is 413', async () => {
  const largest = `{"x":"${'a'.repeat(16_384 - 8)}"}`;
  assert.equal(Buffer.byteLength(largest), 16_384);
  await assertProblem(await post(json, largest), 400, 'INVALID_REQUEST');
  await assertProblem(await post(json, `${largest} `), 413, 'BODY_TOO_LARGE');
});

test('a chunked body over the limit is 413 although it names no length', async () => {
  const { authorization } = bearer(1n);
  const chunk = `${(20_000).toString(16)}\r\n${' '.repeat(20_000)}\r\n`;
  const answer = await raw(
    `POST /v1/orders HTTP/1.1\r\nhost: a\r\nauthorization: ${authorization}\r\n` +
      `content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n${chunk}`,
  );
  assert.match(answer, /^HTTP\/1\.1 413 /);
  assert.match(answer, /BODY_TOO_LARGE/);
});

test('1,000 lines do not fit into a body', async () => {
  const lines = Array(1_000).fill({ skuId: '1', quantity: 1 });
  await assertProblem(await post(json, JSON.stringify({ lines })), 413, 'BODY_TOO_LARGE');
});

test('bytes that are no HTTP are 400', async () => {
  const answer = await raw('nonsense\r\n\r\n');
  assert.match(answer, /^HTTP\/1\.1 400 /);
  assert.match(answer, /content-type: application\/problem\+json/);
  assert.match(answer, /MALFORMED_HTTP/);
});

test('bytes that are no HTTP behind an order are not answered in its place', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  edge.peers.hold = promise;
  try {
    const body = '{"lines":[{"skuId":"1","quantity":1}]}';
    const { authorization } = bearer(1n);
    // As from a client that counts its body one byte too short.
    const answer = await raw(
      `POST /v1/orders HTTP/1.1\r\nhost: a\r\nauthorization: ${authorization}\r\n` +
        'idempotency-key: too short\r\ncontent-type: application/json\r\n' +
        `content-length: ${body.length}\r\n\r\n${body}}`,
    ).catch(() => '');
    assert.equal(answer, '', 'the connection is closed: the outcome is not known');
  } finally {
    edge.peers.hold = undefined;
    resolve();
  }
});

test('headers over the limit are 431', async () => {
  const answer = await raw(`GET / HTTP/1.1\r\nhost: a\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`);
  assert.match(answer, /^HTTP\/1\.1 431 /);
  assert.match(answer, /HEADERS_TOO_LARGE/);
});

test('whoever never finishes a request is cut off', async () => {
  const answers = await Promise.all([
    raw(''),
    raw('GET /healthz HTTP/1.1\r\nhost: a\r\n'),
    raw(
      `POST /v1/orders HTTP/1.1\r\nhost: a\r\nauthorization: ${bearer(1n).authorization}\r\n` +
        'content-type: application/json\r\ncontent-length: 40\r\n\r\n{"lines"',
    ),
  ]);
  for (const answer of answers) {
    assert.match(answer, /^HTTP\/1\.1 408 /);
    assert.match(answer, /REQUEST_TIMEOUT/);
  }
});

test('a URL that cannot be decoded is 400', async () => {
  const answer = await raw('GET /v1/orders/%zz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n');
  assert.match(answer, /^HTTP\/1\.1 400 /);
  assert.match(answer, /MALFORMED_HTTP/);
  assert.match(answer, /x-content-type-options: nosniff/);
});

test('every answer has the security headers and none allows other origins', async () => {
  const headers = { origin: 'https://elsewhere.example' };
  for (const path of ['/healthz', '/v1/orders', '/nothing', '/v1/skus']) {
    const response = await fetch(`${edge.url}${path}`, { headers });
    assert.equal(response.headers.get('x-content-type-options'), 'nosniff');
    assert.equal(response.headers.get('cache-control'), 'no-store');
    assert.match(response.headers.get('content-security-policy') ?? '', /default-src 'none'/);
    assert.equal(response.headers.get('referrer-policy'), 'no-referrer');
    assert.equal(response.headers.get('access-control-allow-origin'), null);
  }
});
