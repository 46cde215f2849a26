import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { sku } from '../edge/fake-stock.ts';
import { eventually } from '../support/eventually.ts';
import { type EdgeProcess, startEdgeProcess } from './edge-process.ts';
import { assertUnharmed, type Group, runTrial } from './harness.ts';
import { type HostileSockets, openHostile } from './hostile-sockets.ts';
import { attemptFrom } from './http-buyers.ts';

// A client with few bytes: slow, half-closed, pipelining, not reading. It loses its own connections, and
// everybody else notices nothing, although they all come from one address here.

const connectionsMax = 1_000;
const webhooksMax = 16;
const mebibyte = 1_024 * 1_024;
/** What a process may come to hold besides: what it builds between two looks, and what is not collected yet. */
const memorySlackBytes = 288 * mebibyte;

let edge: EdgeProcess;

before(async () => {
  edge = await startEdgeProcess({
    SLUICE_EDGE_CONNECTIONS_MAX: String(connectionsMax),
    SLUICE_EDGE_WEBHOOKS: String(webhooksMax),
  });
  // What is opened once and kept is there before anything is counted.
  await Promise.all(Array.from({ length: 20 }, () => ask('/v1/skus')));
});

after(() => edge?.close());

/** Somebody honest, on a connection of their own. */
function ask(path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(`${edge.url}${path}`, {
    ...init,
    headers: { connection: 'close', ...init.headers },
  });
}

const honest: Record<'lookers' | 'buyers', Group> = {
  lookers: { perSecond: 20, send: async () => attemptFrom(await ask('/v1/skus/7')) },
  buyers: {
    perSecond: 20,
    async send(number) {
      const response = await ask('/v1/orders', {
        method: 'POST',
        headers: {
          authorization: edge.bearer(BigInt(number + 1)),
          'content-type': 'application/json',
          'idempotency-key': `honest-${number}`,
        },
        body: '{"lines":[{"skuId":"7","quantity":1}]}',
      });
      return attemptFrom(response, 201);
    },
  },
};

/** Lets honest clients come before, during and after what the hostile one does. */
async function assertNobodyElseNotices(hostile: {
  on(): Promise<void>;
  off(): Promise<void>;
}): Promise<void> {
  const phases = await runTrial({
    groups: honest,
    bad: hostile,
    beforeMs: 1_500,
    duringMs: 7_000,
    afterMs: 500,
  });
  assertUnharmed(phases.lookers, 'lookers');
  assertUnharmed(phases.buyers, 'buyers');
}

/** Waits until the process has no more descriptors than before, but for some of those who ask. */
async function untilDescriptorsAre(before: number): Promise<void> {
  const slack = 20;
  await eventually(() => edge.descriptors() <= before + slack, 'the descriptors are free again', {
    withinMs: 20_000,
  });
}

test('half again as many sockets as there are places dribble a header and never close', async () => {
  const before = edge.descriptors();
  let sockets: HostileSockets | undefined;
  let timer: NodeJS.Timeout | undefined;
  await assertNobodyElseNotices({
    async on() {
      const begin = 'GET / HTTP/1.1\r\nhost: a\r\nx-slow: ';
      sockets = await openHostile({ port: edge.port, count: connectionsMax * 1.5, begin });
      timer = setInterval(() => sockets?.dribble('a'), 1_000);
    },
    async off() {
      // They are still there, and dribble on.
      await untilDescriptorsAre(before);
      clearInterval(timer);
      sockets?.destroy();
    },
  });
  assert.ok((await edge.metric('http_connections_closed_total')) >= connectionsMax);
});

test('half-closed sockets in the middle of a request hold no descriptor', async () => {
  const before = edge.descriptors();
  const begun = [
    'GET /healthz HTTP/1.1\r\nhost: a\r\n',
    'POST /v1/webhooks/x HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf',
    '',
  ];
  const opening = begun.map((begin) =>
    openHostile({ port: edge.port, count: 60, begin, halfClose: true, reads: false }),
  );
  const sockets = await Promise.all(opening);
  await untilDescriptorsAre(before);
  for (const each of sockets) each.destroy();
});

test('idle connections in masses make room for whoever asks', async () => {
  const begin = 'GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n';
  const sockets = await openHostile({ port: edge.port, count: connectionsMax, begin });
  try {
    for (let count = 0; count < 50; count += 1) {
      const response = await ask('/healthz');
      assert.equal(response.status, 200);
    }
  } finally {
    sockets.destroy();
  }
});

test('unfinished webhooks, more than there are places, take none from genuine ones', async () => {
  const begin = 'POST /v1/webhooks/anything HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{';
  const sockets = await openHostile({ port: edge.port, count: 4 * webhooksMax, begin });
  const timer = setInterval(() => sockets.dribble(' '), 1_000);
  try {
    for (let count = 0; count < 100; count += 1) {
      const webhook = { method: 'POST', body: 'genuine', headers: { 'x-signature': 't=1,v1=ab' } };
      const response = await ask('/v1/webhooks/simulator', webhook);
      assert.equal(response.status, 200, await response.text());
    }
  } finally {
    clearInterval(timer);
    sockets.destroy();
  }
});

test('100,000 requests in one connection are cut off, and cost no memory and no calls', async () => {
  const residentBytes = edge.residentBytes();
  edge.peers.asked.length = 0;
  let mostBytes = 0;
  const begin = 'GET /v1/skus/8 HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(100_000);
  const timer = setInterval(() => {
    mostBytes = Math.max(mostBytes, edge.residentBytes());
  }, 20);
  let sockets: HostileSockets | undefined;
  try {
    await assertNobodyElseNotices({
      async on() {
        sockets = await openHostile({ port: edge.port, count: 1, begin });
      },
      off: async () => sockets?.destroy(),
    });
  } finally {
    clearInterval(timer);
  }
  const asked = edge.peers.asked.filter(
    ({ method, request }) => method === 'getSku' && (request as { skuId: bigint }).skuId === 8n,
  );
  assert.ok(asked.length <= 32, `stock was asked ${asked.length} times`);
  assert.ok(
    mostBytes <= residentBytes + memorySlackBytes,
    `${mostBytes} bytes of ${residentBytes}`,
  );
  assert.equal(await edge.metric('circuit_breaker_state'), 0, 'no circuit opened');
});

test('answers that nobody takes hold neither descriptors nor memory', async () => {
  const before = edge.descriptors();
  const residentBytes = edge.residentBytes();
  // More than the machine takes for a client who does not read, in each connection.
  edge.peers.skus = Array.from({ length: 2_000 }, (_, index) => ({ ...sku, skuId: BigInt(index) }));
  const begin = 'GET /v1/skus HTTP/1.1\r\nhost: a\r\n\r\n'.repeat(30);
  let mostBytes = 0;
  const timer = setInterval(() => {
    mostBytes = Math.max(mostBytes, edge.residentBytes());
  }, 20);
  const sockets = await openHostile({ port: edge.port, count: 60, begin, reads: false });
  try {
    await eventually(
      async () => (await edge.metric('http_connections_closed_total.*not_taken')) > 0,
      'connections are closed because nobody takes what was answered',
    );
    await untilDescriptorsAre(before);
  } finally {
    clearInterval(timer);
    sockets.destroy();
    edge.peers.skus = [sku];
  }
  assert.ok(mostBytes <= residentBytes + memorySlackBytes, `${mostBytes} of ${residentBytes}`);
});
