import assert from 'node:assert/strict';
import { connect } from 'node:http2';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { eventually } from '../support/eventually.ts';
import { clientOf, type SmallCopy, smallCopy } from './small-service.ts';

const stops = 100;
const workers = 24;
/** Long enough that some calls are under way at each stop. */
const workMs = 3;

interface Load {
  readonly failures: string[];
  /** Calls that were answered. */
  answered(): number;
  stop(): Promise<void>;
}

/** Workers who call one after the other, each call for an order of its own. */
function startLoad(reserve: (orderId: bigint) => Promise<void>): Load {
  const failures: string[] = [];
  let last = 0n;
  let answered = 0;
  let stopped = false;
  const work = async (): Promise<void> => {
    while (!stopped) {
      last += 1n;
      const orderId = last;
      try {
        await reserve(orderId);
        answered += 1;
      } catch (error) {
        failures.push(`order ${orderId}: ${error}`);
        // A client that fails at once must not fill the memory.
        await sleep(10);
      }
    }
  };
  const all = Array.from({ length: workers }, work);
  return {
    failures,
    answered: () => answered,
    async stop() {
      stopped = true;
      await Promise.all(all);
    },
  };
}

/** Asserts that every call was answered, and that nobody began one twice. */
function assertNothingLost(load: Load, copies: readonly SmallCopy[]): void {
  assert.deepEqual(load.failures.slice(0, 5), [], `${load.failures.length} calls failed`);
  const begun = copies.flatMap((copy) => copy.begun);
  assert.equal(new Set(begun).size, begun.length, 'no call was begun twice');
  assert.equal(begun.length, load.answered(), 'what was begun was answered');
}

test('a hundred stops of one of two copies under load lose no call', async () => {
  const work = (): Promise<void> => sleep(workMs);
  const copies = [await smallCopy(work), await smallCopy(work)];
  for (const copy of copies) await copy.start();
  const { reserve, close } = clientOf(copies);
  const load = startLoad(reserve);
  try {
    for (let stop = 0; stop < stops; stop += 1) {
      const copy = copies[stop % 2] as SmallCopy;
      // Both work before one is stopped, as whoever renews copies in turn waits for it.
      const before = copies.map(({ begun }) => begun.length);
      const areAsked = (): boolean =>
        copies.every(({ begun }, index) => begun.length > (before[index] ?? 0));
      await eventually(areAsked, 'both copies are asked', { everyMs: 2 });
      await copy.stop();
      await copy.start();
    }
  } finally {
    await load.stop();
    close();
    for (const copy of copies) await copy.stop();
  }
  assertNothingLost(load, copies);
});

test('connections that are renewed because of their age lose no call', async () => {
  const metrics = createMetrics('test');
  const copy = await smallCopy(() => sleep(workMs), { metrics, limits: { ageMaxMs: 300 } });
  await copy.start();
  const { reserve, close } = clientOf([copy]);
  const load = startLoad(reserve);
  try {
    const renewals = /^grpc_goodbyes_total\{.*reason="age".*\} (\d+)$/m;
    await eventually(async () => {
      const [, count] = renewals.exec(await metrics.registry.metrics()) ?? [];
      return Number(count) >= 15;
    }, 'the connection was renewed 15 times');
  } finally {
    await load.stop();
    close();
    await copy.stop();
  }
  assertNothingLost(load, [copy]);
});

test('what a client has sent before it is told to go is served, although it tries nothing twice', async () => {
  const copy = await smallCopy(() => sleep(workMs));
  await copy.start();
  const session = connect(`http://127.0.0.1:${copy.port}`);
  const lost: number[] = [];
  let sent = 0;
  let answered = 0;
  let told = false;
  session.on('error', () => {});
  session.once('goaway', () => {
    told = true;
  });
  const ask = (): void => {
    sent += 1;
    const stream = session.request({
      ':method': 'POST',
      ':path': '/sluice.stock.v1.StockService/ReserveStock',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', () => {});
    stream.on('trailers', () => {
      answered += 1;
    });
    stream.on('close', () => {
      if (stream.rstCode !== 0) lost.push(stream.rstCode ?? -1);
    });
    stream.resume();
    // One message without a field.
    stream.end(Buffer.alloc(5));
  };
  // At every turn of the event loop, so that some are always on their way.
  const pump = (): void => {
    if (told) return;
    ask();
    setImmediate(pump);
  };
  session.once('remoteSettings', pump);
  await eventually(() => answered > 100, 'calls are answered');
  await copy.stop();
  session.destroy();
  assert.ok(told, 'the client was told to go');
  // What is sent in the very turn in which the client is told never leaves it.
  assert.ok(lost.length <= 1, `${lost.length} of ${sent} were lost: ${lost}`);
  assert.ok(sent - answered <= 1, `${answered} of ${sent} were answered`);
});
