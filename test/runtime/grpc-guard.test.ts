import assert from 'node:assert/strict';
import http2, { type ClientHttp2Stream, connect } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { test } from 'node:test';
import type { GrpcLimits } from '../../services/runtime/grpc-limits.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import {
  askForDescriptor,
  connectHostile,
  framed,
  type HostilePeer,
  reflectionPath,
} from '../isolation/hostile-grpc.ts';
import { type SmallCopy, smallCopy } from '../isolation/small-service.ts';
import { eventually } from '../support/eventually.ts';

interface Guarded {
  readonly copy: SmallCopy;
  connectHostile(initialWindowSize?: number): Promise<HostilePeer>;
  /** The value of a metric whose name and labels match, summed. */
  metric(pattern: string): Promise<number>;
}

/** Runs a test against a small service whose calls are answered when `release` is called. */
async function withGuard(
  limits: Partial<GrpcLimits>,
  run: (guarded: Guarded & { release: () => void }) => Promise<void>,
): Promise<void> {
  const metrics = createMetrics('test');
  const { promise, resolve } = Promise.withResolvers<void>();
  const copy = await smallCopy(() => promise, { metrics, limits });
  await copy.start();
  const peers: HostilePeer[] = [];
  try {
    await run({
      copy,
      release: resolve,
      async connectHostile(initialWindowSize) {
        const peer = await connectHostile(copy.port, initialWindowSize);
        peers.push(peer);
        return peer;
      },
      async metric(pattern) {
        const text = await metrics.registry.metrics();
        const values = text.matchAll(new RegExp(`^${pattern}.* (\\S+)$`, 'gm'));
        return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
      },
    });
  } finally {
    resolve();
    for (const peer of peers) peer.destroy();
    await copy.stop();
  }
}

const reservePath = '/sluice.stock.v1.StockService/ReserveStock';
const healthPath = '/grpc.health.v1.Health/Watch';
const refusedStream = 7;
const empty = framed(Buffer.alloc(0));

test('streams beyond those of a connection and of a peer are refused before anything is begun', async () => {
  const limits = { streamsPerConnectionMax: 10, streamsPerPeerMax: 15 };
  await withGuard(limits, async ({ connectHostile: open, metric, copy }) => {
    const first = await open();
    await first.open(reservePath, 13, empty);
    await eventually(() => first.ended.get(refusedStream) === 3, 'three are refused');
    const second = await open();
    await second.open(reservePath, 9, empty);
    await eventually(() => second.ended.get(refusedStream) === 4, 'four more are refused');
    assert.equal(await metric('grpc_streams'), 15);
    assert.equal(await metric('grpc_closed_total\\{.*reason="streams"'), 7);
    first.destroy();
    await eventually(async () => (await metric('grpc_streams')) === 5, 'what ends makes room');
    assert.equal(copy.begun.length, 0);
  });
});

for (const [name, path, bytes] of [
  ['reflection', reflectionPath, askForDescriptor('sluice.stock.v1.StockService')],
  ['health', healthPath, empty],
] as const) {
  test(`streams of ${name} are bounded on a connection and in all`, async () => {
    const sideStreams = {
      reflection: { perConnectionMax: 3, max: 5 },
      health: { perConnectionMax: 3, max: 5 },
    };
    await withGuard({ sideStreams }, async ({ connectHostile: open, metric }) => {
      const peers = [await open(), await open()];
      for (const peer of peers) await peer.open(path, 10, bytes, { end: name === 'health' });
      const refused = (): number =>
        peers.reduce((sum, { ended }) => sum + (ended.get(refusedStream) ?? 0), 0);
      await eventually(() => refused() === 15, 'all but five are refused');
      assert.equal(await metric('grpc_streams'), 5);
      assert.equal(await metric(`grpc_closed_total\\{.*reason="${name}"`), 15);
    });
  });
}

test('connections of one peer are bounded: one more takes the place of one without a call', async () => {
  await withGuard({ connectionsPerPeerMax: 3 }, async ({ connectHostile: open, metric }) => {
    const idle = await open();
    const busy = await open();
    await busy.open(reservePath, 1, empty);
    await open();
    const next = await open();
    await eventually(() => idle.session.destroyed, 'the one without a call is closed');
    assert.ok(!busy.session.destroyed && !next.session.destroyed);
    assert.equal(await metric('grpc_connections'), 3);
    assert.equal(await metric('grpc_closed_total\\{.*reason="address_full"'), 1);
  });
});

test('a peer that says nothing, and one that never ends its request, are given up', async () => {
  await withGuard({ requestMs: 500 }, async ({ connectHostile: open, metric, copy }) => {
    const silent = connectTcp(copy.port, '127.0.0.1');
    silent.on('error', () => {});
    const slow = await open();
    await slow.open(reservePath, 5, framed(Buffer.alloc(100)).subarray(0, 50), { end: false });
    await eventually(
      async () => (await metric('grpc_closed_total\\{.*reason="slow_request"')) === 5,
      'the requests are given up',
    );
    await eventually(
      async () => (await metric('grpc_closed_total\\{.*reason="no_greeting"')) === 1,
      'the silent connection is closed',
    );
    assert.ok(!slow.session.destroyed, 'a connection is not blamed for its streams');
    silent.destroy();
  });
});

test('an answer that nobody takes is thrown away, and the connection with too many of them', async () => {
  await withGuard({ takenMs: 500 }, async ({ connectHostile: open, metric, release }) => {
    release();
    const deaf = await open();
    await deaf.open(reflectionPath, 2, askForDescriptor('sluice.stock.v1.StockService'), {
      end: false,
    });
    await eventually(
      async () => (await metric('grpc_closed_total\\{.*reason="answer_not_taken"')) === 2,
      'the answers are thrown away',
    );
  });
  await withGuard({ bytesPerConnectionMax: 10_000 }, async ({ connectHostile: open, metric }) => {
    const deaf = await open();
    await deaf.open(reflectionPath, 2, askForDescriptor('sluice.stock.v1.StockService'), {
      end: false,
    });
    await eventually(() => deaf.session.destroyed, 'the connection is closed');
    assert.equal(await metric('grpc_closed_total\\{.*reason="memory"'), 1);
  });
});

test('bytes of requests that are not whole are bounded', async () => {
  await withGuard({ bytesPerConnectionMax: 200_000 }, async ({ connectHostile: open, metric }) => {
    const greedy = await open();
    const half = framed(Buffer.alloc(60_000)).subarray(0, 50_000);
    await greedy.open(reservePath, 6, half, { end: false });
    await eventually(() => greedy.session.destroyed, 'the connection is closed');
    assert.equal(await metric('grpc_closed_total\\{.*reason="memory"'), 1);
  });
});

test('a stop waits for no peer that stands still', async () => {
  await withGuard({}, async ({ copy, connectHostile: open }) => {
    const frozen = await open();
    await frozen.open(reservePath, 3, empty);
    await eventually(() => copy.calls() === 3, 'its calls are under way');
    const { socket } = frozen.session as unknown as { socket: { _handle: { readStop(): void } } };
    socket._handle.readStop();
    // Bounded by the runner of the tests, and far below that by the server itself.
    await copy.stop();
  });
});

test('a stop tells those who watch the health of the server, and waits for none of them', async () => {
  await withGuard({}, async ({ copy, connectHostile: open }) => {
    const watcher = await open(65_535);
    const stream = watcher.session.request({
      ':method': 'POST',
      ':path': healthPath,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', () => {});
    const closed = new Promise((resolve) => stream.once('close', resolve));
    const statuses: number[] = [];
    // A message is 5 bytes of head, and then a tag and the status.
    stream.on('data', (bytes: Buffer) => statuses.push(bytes[6] ?? -1));
    stream.end(empty);
    await eventually(() => statuses.length === 1, 'it is told how the server is');
    await copy.stop();
    await closed;
    assert.deepEqual(statuses, [1, 2], 'SERVING, then NOT_SERVING');
  });
});

test('thousands of calls that are given up at once harm no other call on their connection', async () => {
  await withGuard({}, async ({ copy, release, metric }) => {
    const session = connect(`http://127.0.0.1:${copy.port}`);
    session.on('error', () => {});
    const call = (): ClientHttp2Stream => {
      const headers = {
        ':method': 'POST',
        ':path': reservePath,
        'content-type': 'application/grpc',
      };
      const stream = session.request({ ...headers, te: 'trailers' });
      stream.on('error', () => {});
      stream.resume().end(empty);
      return stream;
    };
    const patient = call();
    const answered = new Promise<void>((resolve, reject) => {
      patient.once('trailers', () => resolve());
      patient.once('close', () => reject(new Error(`reset with ${patient.rstCode}`)));
    });
    for (let round = 0; round < 2; round += 1) {
      const hasty = Array.from({ length: 1_900 }, call);
      await eventually(async () => (await metric('grpc_streams')) === 1_901, 'all are under way');
      for (const stream of hasty) stream.close(http2.constants.NGHTTP2_CANCEL);
      await eventually(async () => (await metric('grpc_streams')) === 1, 'all are given up');
    }
    release();
    await answered;
    session.destroy();
  });
});
