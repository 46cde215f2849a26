import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { beforeEach, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { HandleWebhookRequest } from '../../gen/sluice/payment/v1/payment_service.ts';
import { Refusal, type RefusalReason } from '../../services/runtime/refusals.ts';
import { type ProblemBody, until, useEdge } from './support.ts';

const webhooksMax = 8;
const edge = useEdge({ SLUICE_EDGE_WEBHOOKS: String(webhooksMax) });
const { peers } = edge;

beforeEach(() => {
  peers.refusal = undefined;
  peers.asked.length = 0;
});

const bodyBytesMax = 256 * 1_024;

function send(
  body: string | Buffer,
  headers: Record<string, string> = {},
  provider = 'simulator',
): Promise<Response> {
  return fetch(`${edge.url}/v1/webhooks/${provider}`, { method: 'POST', headers, body });
}

/** What payment was handed last. */
function handed(): HandleWebhookRequest {
  const last = peers.asked.findLast(({ method }) => method === 'handleWebhook');
  assert.ok(last, 'payment was asked');
  return last.request as HandleWebhookRequest;
}

/** Webhooks that wait for a batch or for its answer. */
async function waitingWebhooks(): Promise<number> {
  const text = await (await fetch(`${edge.metricsUrl}/metrics`)).text();
  return Number(/^edge_webhooks_waiting\b\S* (\d+)$/m.exec(text)?.[1]);
}

/** Sends a head and a body as they are, and reads until the server closes. */
function raw(head: readonly string[], body: string | Buffer = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const lines = ['POST /v1/webhooks/simulator HTTP/1.1', 'host: a', ...head, '', ''];
    const socket = connect(edge.port, '127.0.0.1', () => {
      socket.write(lines.join('\r\n'));
      socket.write(body);
    });
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

test('a webhook is 200 and says whether it is a duplicate', async () => {
  for (const [body, duplicate] of [
    ['first', false],
    ['again', true],
  ] as const) {
    const response = await send(body);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'application/json');
    assert.deepEqual(await response.json(), { duplicate });
  }
  assert.equal(handed().provider, 'simulator');
});

const bodies: [name: string, body: string | Buffer, headers: Record<string, string>][] = [
  ['JSON', '{ "a" : 1 }\n', { 'content-type': 'application/json' }],
  ['text that is no JSON', '{"a":', { 'content-type': 'application/json' }],
  ['a form', 'a=1&b=%20', { 'content-type': 'application/x-www-form-urlencoded' }],
  ['bytes that are no UTF-8', Buffer.from([0, 0xff, 0xfe, 0xc3, 0x28, 0]), {}],
  ['a byte order mark', Buffer.from([0xef, 0xbb, 0xbf, 0x7b, 0x7d]), {}],
  ['every byte there is', Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)), {}],
  ['a content type that is none', 'x', { 'content-type': 'nonsense' }],
  ['a charset that is none', 'x', { 'content-type': 'application/json; charset=x;;' }],
  ['gzip', gzipSync('{"a":1}'), { 'content-encoding': 'gzip', 'content-type': 'application/json' }],
  ['gzip in name only', 'not gzip', { 'content-encoding': 'gzip' }],
  ['no body', '', {}],
  ['a body of 256 KiB', Buffer.alloc(bodyBytesMax, 'é'), {}],
];

for (const [name, body, headers] of bodies) {
  test(`${name} reaches payment byte for byte, with its headers`, async () => {
    const response = await send(body, { ...headers, 'x-signature': 't=1,v1=ab' });
    assert.equal(response.status, 200);
    const { body: seen, headers: seenHeaders } = handed();
    assert.deepEqual(Buffer.from(seen), Buffer.from(body));
    assert.equal(seenHeaders['x-signature'], 't=1,v1=ab');
    for (const [header, value] of Object.entries(headers)) {
      assert.equal(seenHeaders[header], value);
    }
  });
}

test('a body of 256 KiB and one byte is 413, whether it names its length or not', async () => {
  const tooLarge = Buffer.alloc(bodyBytesMax + 1, 'a');
  const response = await send(tooLarge);
  assert.equal(response.status, 413);
  assert.equal(((await response.json()) as ProblemBody).reason, 'BODY_TOO_LARGE');
  const chunk = `${tooLarge.length.toString(16)}\r\n${tooLarge}\r\n`;
  const answer = await raw(['transfer-encoding: chunked'], chunk);
  assert.match(answer, /^HTTP\/1\.1 413 /);
  assert.equal(peers.asked.length, 0);
});

test('a chunked body is put together', async () => {
  const head = ['transfer-encoding: chunked', 'connection: close'];
  const answer = await raw(head, '3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n');
  assert.match(answer, /^HTTP\/1\.1 200 /);
  assert.equal(Buffer.from(handed().body).toString(), 'abcde');
  assert.equal(handed().headers['transfer-encoding'], undefined);
});

test('names are in lower case, repeated ones joined in their order, also those that node drops', async () => {
  const answer = await raw(
    [
      'Stripe-Signature: one',
      'X-Other: a',
      'STRIPE-SIGNATURE: two',
      'stripe-signature: three',
      'Content-Type: text/a',
      'Content-Type: text/b',
      'Authorization: Basic x',
      'Authorization: Basic y',
      'Set-Cookie: c=1',
      'Set-Cookie: d=2',
      '__proto__: p',
      'constructor: c',
      'content-length: 1',
      'connection: close',
    ],
    'x',
  );
  assert.match(answer, /^HTTP\/1\.1 200 /);
  const { headers } = handed();
  assert.equal(headers['stripe-signature'], 'one, two, three');
  assert.equal(headers['x-other'], 'a');
  assert.equal(headers['content-type'], 'text/a, text/b');
  assert.equal(headers.authorization, 'Basic x, Basic y');
  assert.equal(headers['set-cookie'], 'c=1, d=2');
  assert.equal(headers.constructor, 'c');
  assert.ok(Object.keys(headers).every((name) => name === name.toLowerCase()));
});

test('headers of the connection stay behind, also those that Connection names', async () => {
  const answer = await raw(
    [
      'connection: close, X-Hop',
      'x-hop: 1',
      'keep-alive: timeout=5',
      'te: trailers',
      'trailer: x-checksum',
      'proxy-authorization: Basic x',
      'proxy-connection: close',
      'x-end: 1',
      'content-length: 1',
    ],
    'x',
  );
  assert.match(answer, /^HTTP\/1\.1 200 /);
  assert.deepEqual({ ...handed().headers }, { host: 'a', 'x-end': '1', 'content-length': '1' });
});

test('64 headers are taken and 65 are 431', async () => {
  const head = (count: number): string[] => [
    ...Array.from({ length: count - 3 }, (_, index) => `x-${index}: 1`),
    'content-length: 1',
    'connection: close',
  ];
  assert.match(await raw(head(64), 'x'), /^HTTP\/1\.1 200 /);
  const answer = await raw(head(65), 'x');
  assert.match(answer, /^HTTP\/1\.1 431 /);
  assert.match(answer, /HEADERS_TOO_LARGE/);
  assert.equal(peers.asked.length, 1);
});

for (const provider of ['Stripe', '0', 'a.b', 'a%00', '%C3%A9', '-', 'x'.repeat(33), 'a%2Fb']) {
  test(`the provider ${provider} is not found, without asking payment`, async () => {
    const response = await send('x', {}, provider);
    assert.equal(response.status, 404);
    assert.equal(((await response.json()) as ProblemBody).reason, 'NOT_FOUND');
    assert.equal(peers.asked.length, 0);
  });
}

test('no token is asked for, and a bad one does not matter', async () => {
  const authorization = 'Bearer nonsense';
  assert.equal((await send('x', { authorization })).status, 200);
  assert.equal(handed().headers.authorization, authorization);
});

test('other methods are 405', async () => {
  const response = await fetch(`${edge.url}/v1/webhooks/simulator`);
  assert.equal(response.status, 405);
  assert.equal(response.headers.get('allow'), 'POST');
});

const mapped: [reason: RefusalReason, status: number][] = [
  ['UNAUTHENTICATED', 401],
  ['INVALID_REQUEST', 400],
  ['NOT_FOUND', 404],
  ['OVERLOADED', 503],
  ['DEPENDENCY_DOWN', 503],
  ['OUTCOME_UNKNOWN', 504],
];

for (const [reason, status] of mapped) {
  test(`${reason} of payment is ${status} for the provider`, async () => {
    peers.refusal = new Refusal(reason, 'a sentence');
    const response = await send('x');
    assert.equal(response.status, status);
    assert.equal(response.headers.get('content-type'), 'application/problem+json');
    assert.equal(((await response.json()) as ProblemBody).reason, reason);
  });
}

test('a payment service that breaks makes the provider repeat, and its text stays inside', async () => {
  peers.refusal = new Error('secret text') as Refusal;
  const response = await send('x');
  assert.equal(response.status, 504);
  assert.doesNotMatch(await response.text(), /secret text/);
});

test('webhooks that come together go to payment together, and each is answered by itself', async () => {
  let release = (): void => {};
  peers.hold = new Promise((resolve) => {
    release = resolve;
  });
  peers.webhookBatches.length = 0;
  try {
    // Two are under way, one by one; the others wait meanwhile.
    const early = [send('first')];
    await until(async () => peers.webhookBatches.length === 1);
    early.push(send('first'));
    await until(async () => peers.webhookBatches.length === 2);
    const late = ['first', 'forged', 'again', 'first', 'first'].map((body) => send(body));
    await until(async () => (await waitingWebhooks()) === webhooksMax - 1);
    release();
    const statuses = (await Promise.all(late)).map(({ status }) => status);
    assert.deepEqual(statuses, [200, 401, 200, 200, 200]);
    assert.deepEqual(await (await late[2])?.json(), { duplicate: true });
    assert.deepEqual(
      (await Promise.all(early)).map(({ status }) => status),
      [200, 200],
    );
    assert.equal(
      peers.webhookBatches.reduce((sum, size) => sum + size, 0),
      7,
    );
    assert.ok(peers.webhookBatches.length < 7, `${peers.webhookBatches}`);
  } finally {
    release();
    peers.hold = undefined;
  }
});

test('a webhook whose answer is lost is 504, so that the provider repeats it', async () => {
  let release = (): void => {};
  peers.hold = new Promise((resolve) => {
    release = resolve;
  });
  try {
    const response = await send('first');
    assert.equal(response.status, 504);
    assert.equal(((await response.json()) as ProblemBody).reason, 'OUTCOME_UNKNOWN');
  } finally {
    release();
    peers.hold = undefined;
  }
  assert.equal((await send('again')).status, 200);
});

test('as many webhooks are under way as are set; one that its sender drops makes room', async () => {
  let release = (): void => {};
  peers.hold = new Promise((resolve) => {
    release = resolve;
  });
  const head = 'POST /v1/webhooks/simulator HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nfirst';
  const sockets = Array.from({ length: webhooksMax }, () => {
    const socket = connect(edge.port, '127.0.0.1', () => socket.write(head));
    socket.on('error', () => {});
    return socket;
  });
  try {
    await until(async () => (await waitingWebhooks()) === webhooksMax);
    const refused = await send('x');
    assert.equal(refused.status, 503);
    assert.equal(((await refused.json()) as ProblemBody).reason, 'OVERLOADED');
    assert.ok(Number(refused.headers.get('retry-after')) >= 1);
    assert.equal((await fetch(`${edge.url}/v1/skus`)).status, 200, 'buyers notice nothing');
    sockets.pop()?.destroy();
    release();
    await until(async () => (await send('x')).status === 200);
  } finally {
    release();
    peers.hold = undefined;
    for (const socket of sockets) socket.destroy();
  }
});

test('webhooks that have not arrived whole take no place, however many there are', async () => {
  const head = 'POST /v1/webhooks/simulator HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf';
  const sockets = Array.from({ length: 3 * webhooksMax }, () => {
    const socket = connect(edge.port, '127.0.0.1', () => socket.write(head));
    socket.on('error', () => {});
    return socket;
  });
  try {
    await until(async () => (await unfinishedBytes()) === 3 * webhooksMax * 'half'.length);
    assert.equal((await send('x')).status, 200);
    sockets.pop()?.destroy();
    await until(async () => (await unfinishedBytes()) < 3 * webhooksMax * 'half'.length);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
  await until(async () => (await unfinishedBytes()) === 0);
});

/** Bytes of webhooks that have not arrived whole. */
async function unfinishedBytes(): Promise<number> {
  const text = await (await fetch(`${edge.metricsUrl}/metrics`)).text();
  return Number(/^edge_webhook_unfinished_bytes\b\S* (\d+)$/m.exec(text)?.[1]);
}
