import assert from 'node:assert/strict';
import { connect as connectTcp, createServer as createTcpServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { clientOf, type SmallCopy, smallCopy } from '../isolation/small-service.ts';
import { eventually } from '../support/eventually.ts';

/** What a call came to. */
function reasonOf(call: Promise<void>): Promise<string> {
  return call.then(
    () => 'answered',
    (error: unknown) => (error instanceof Refusal ? error.reason : String(error)),
  );
}

type Client = ReturnType<typeof clientOf>;

/** Runs a test with copies that do `reserve` for each call, by their index. */
async function withCopies(
  count: number,
  reserve: (index: number, signal: AbortSignal) => Promise<void>,
  run: (copies: readonly SmallCopy[]) => Promise<void>,
): Promise<void> {
  const copies: SmallCopy[] = [];
  for (let index = 0; index < count; index += 1) {
    copies.push(await smallCopy((_orderIds, signal) => reserve(index, signal)));
  }
  for (const copy of copies) await copy.start();
  try {
    await run(copies);
  } finally {
    for (const copy of copies) await copy.stop();
  }
}

/** A client that has been answered by each copy. */
async function connectedTo(
  copies: readonly SmallCopy[],
  options: Parameters<typeof clientOf>[1] = {},
): Promise<Client> {
  const client = clientOf(copies, options);
  await eventually(async () => {
    await Promise.all(copies.map(() => client.reserve(0n)));
    return copies.every(({ begun }) => begun.length > 0);
  }, 'every copy is asked');
  for (const { begun } of copies) begun.length = 0;
  return client;
}

const over = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });

test('calls that come together are spread over the copies, and those that come alone take turns', async () => {
  let gate = Promise.resolve();
  await withCopies(
    3,
    () => gate,
    async (copies) => {
      const client = await connectedTo(copies);
      const { promise, resolve } = Promise.withResolvers<void>();
      gate = promise;
      const calls = Array.from({ length: 9 }, (_, index) => client.reserve(BigInt(index)));
      await eventually(() => copies.every(({ begun }) => begun.length === 3), 'three for each');
      resolve();
      await Promise.all(calls);
      for (let count = 0; count < 6; count += 1) await client.reserve(BigInt(count));
      assert.deepEqual(
        copies.map(({ begun }) => begun.length),
        [5, 5, 5],
      );
      client.close();
    },
  );
});

test('a copy that hangs holds the calls it has, and the next ones go elsewhere', async () => {
  let hanging = false;
  await withCopies(
    2,
    async (index, signal) => {
      if (hanging && index === 0) await over(signal);
    },
    async (copies) => {
      const client = await connectedTo(copies, { deadlineMs: 2_000 });
      hanging = true;
      const workers = 8;
      const reasons: string[] = [];
      const beganMs = performance.now();
      const isEnough = (): boolean =>
        performance.now() - beganMs > 6_000 && reasons.length > 20 * workers;
      const work = async (): Promise<void> => {
        while (!isEnough()) reasons.push(await reasonOf(client.reserve(1n)));
      };
      await Promise.all(Array.from({ length: workers }, work));
      const lost = reasons.filter((reason) => reason !== 'answered').length;
      // What each had in hand, and one look a second whether it is well again.
      const looks = Math.ceil((performance.now() - beganMs) / 1_000) + 1;
      assert.ok(lost <= workers + looks, `${lost} of ${reasons.length} calls were lost`);
      client.close();
    },
  );
});

test('the circuit of one copy is its own, and only without any copy is the service down', async () => {
  const breakerState = createMetrics('test').gauge('circuit_breaker_state', 'x', ['name']);
  await withCopies(
    2,
    async () => undefined,
    async (copies) => {
      const [first, second] = copies as [SmallCopy, SmallCopy];
      const client = await connectedTo(copies, { breakerState, deadlineMs: 3_000 });
      const names = (await breakerState.get()).values.map(({ labels }) => labels.name);
      const nameOf = ({ port }: SmallCopy): string => `stock.reserve@127.0.0.1:${port}`;
      assert.deepEqual(names, [nameOf(first), nameOf(second)]);
      await first.stop();
      for (let count = 0; count < 30; count += 1) {
        assert.equal(await reasonOf(client.reserve(1n)), 'answered');
      }
      await second.stop();
      await eventually(() => !client.connected(), 'no copy is connected');
      for (let count = 0; count < 30; count += 1) {
        assert.equal(await reasonOf(client.reserve(1n)), 'DEPENDENCY_DOWN');
      }
      assert.equal(client.breaker('stock.reserve')?.open, true);
      await second.start();
      await eventually(() => client.connected(), 'a copy is connected');
      assert.equal(await reasonOf(client.reserve(1n)), 'answered', 'its circuit is closed at once');
      client.close();
    },
  );
});

test('a copy that was silent is asked again as soon as it is connected anew', async () => {
  let hanging = false;
  await withCopies(
    1,
    async (_index, signal) => {
      if (hanging) await over(signal);
    },
    async ([copy]) => {
      const only = copy as SmallCopy;
      const client = await connectedTo([only], { deadlineMs: 1_500 });
      hanging = true;
      const silent = Array.from({ length: 10 }, () => reasonOf(client.reserve(1n)));
      assert.deepEqual(new Set(await Promise.all(silent)), new Set(['OUTCOME_UNKNOWN']));
      assert.equal(client.breaker('stock.reserve')?.open, true);
      await only.stop();
      hanging = false;
      await only.start();
      await eventually(() => client.connected(), 'it is connected anew');
      assert.equal(client.breaker('stock.reserve')?.open, false);
      assert.equal(await reasonOf(client.reserve(1n)), 'answered');
      client.close();
    },
  );
});

test('calls of one class beyond 4,000 are refused at once, and count for no circuit', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  await withCopies(
    1,
    () => promise,
    async ([copy]) => {
      const client = clientOf([copy as SmallCopy]);
      const calls = Array.from({ length: 4_050 }, () => reasonOf(client.reserve(1n)));
      const refused = await Promise.all(calls.slice(4_000));
      assert.deepEqual(new Set(refused), new Set(['OVERLOADED']));
      resolve();
      assert.deepEqual(new Set(await Promise.all(calls.slice(0, 4_000))), new Set(['answered']));
      assert.equal(client.breaker('stock.reserve')?.open, false);
      client.close();
    },
  );
});

/** A way to a copy on which everything can be held up, as if its host were cut off. */
async function wayTo(port: number) {
  const sockets = new Set<Socket>();
  let held = false;
  let connections = 0;
  const server = createTcpServer((near) => {
    connections += 1;
    const far = connectTcp(port, '127.0.0.1');
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      from.on('data', (chunk) => !held && to.write(chunk));
      from.on('error', () => {});
      from.on('close', () => to.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as { port: number }).port,
    connections: () => connections,
    hold(hold: boolean) {
      held = hold;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

test('a connection whose peer falls silent is given up within seconds', async () => {
  await withCopies(
    1,
    async () => undefined,
    async ([copy]) => {
      const way = await wayTo((copy as SmallCopy).port);
      const client = clientOf([way]);
      await client.reserve(1n);
      way.hold(true);
      // Its deadline is far away: it ends because its connection does.
      assert.equal(await reasonOf(client.reserve(2n)), 'OUTCOME_UNKNOWN');
      assert.equal(client.connected(), false);
      way.hold(false);
      await eventually(() => client.connected(), 'it is connected anew');
      await client.reserve(3n);
      client.close();
      await way.close();
    },
  );
});

test('a process that stands still for seconds blames no peer for it', async () => {
  await withCopies(
    1,
    async () => undefined,
    async ([copy]) => {
      const way = await wayTo((copy as SmallCopy).port);
      const client = clientOf([way]);
      await client.reserve(1n);
      for (let pause = 0; pause < 4; pause += 1) {
        const untilMs = performance.now() + 2_500;
        while (performance.now() < untilMs);
        // A moment in which a sign of life may be asked for, and not be answered yet.
        await sleep(40 * pause);
      }
      await client.reserve(2n);
      assert.equal(way.connections(), 1);
      client.close();
      await way.close();
    },
  );
});
