import assert from 'node:assert/strict';
import { test } from 'node:test';
import { freePort } from '../../deploy/local/port.ts';
import {
  OrderServiceDefinition,
  type OrderServiceImplementation,
  type WatchOrderRequest,
  type WatchOrderResponse,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createGrpcStreams, type GrpcStreams } from '../../services/runtime/grpc-stream.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';

const log = createLog('test', 'silent');

type Orders = OrderServiceImplementation<DeadlineContext>;
type Watch = Orders['watchOrder'];
type Streams = GrpcStreams<WatchOrderRequest, WatchOrderResponse>;

function startOrders(watchOrder: Watch, port = 0) {
  const absent = async (): Promise<never> => {
    throw new Refusal('NOT_FOUND');
  };
  const unary = Object.keys(OrderServiceDefinition.methods).map((name) => [name, absent]);
  const implementation = { ...Object.fromEntries(unary), watchOrder } as Orders;
  return startGrpcServer({
    host: '127.0.0.1',
    port,
    services: [service(OrderServiceDefinition, implementation)],
    log,
    inFlightMax: 100,
  });
}

function streamsTo(
  port: number | readonly number[],
  { streamsMax = 100, firstMessageMs = 20_000 } = {},
): Streams {
  return createGrpcStreams(OrderServiceDefinition, 'watchOrder', {
    addresses: [port].flat().map((each) => `127.0.0.1:${each}`),
    streamsMax,
    policy: { firstMessageMs, breaker: 'order.watch' },
    log,
  });
}

/** Runs a test against a server and its client, and stops both. */
async function withStreams(
  watch: Watch,
  run: (streams: Streams, port: number) => Promise<void>,
  options: Parameters<typeof streamsTo>[1] = {},
): Promise<void> {
  const server = await startOrders(watch);
  const streams = streamsTo(server.port, options);
  try {
    await run(streams, server.port);
  } finally {
    streams.close();
    await server.stop();
  }
}

const request = { orderId: 1n, userId: 1n };
const never = new AbortController().signal;
const message: WatchOrderResponse = { order: undefined };

/** Resolves when the call is over for the server. */
function over(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

function assertRefused(call: Promise<unknown>, reason: string): Promise<void> {
  return assert.rejects(call, (error) => {
    assert(error instanceof Refusal, String(error));
    assert.equal(error.reason, reason);
    return true;
  });
}

test('a stream yields what the server sends and ends as it does', async () => {
  const watch: Watch = async function* () {
    for (let count = 0; count < 3; count += 1) yield message;
  };
  await withStreams(watch, async (streams) => {
    let messages = 0;
    for await (const _ of streams.open(request, never)) messages += 1;
    assert.equal(messages, 3);
  });
});

test('the server’s call ends when the loop is left and when the signal is aborted, quietly', async () => {
  let open = 0;
  const watch: Watch = async function* (_request, { signal }) {
    open += 1;
    yield message;
    await over(signal);
    open -= 1;
  };
  await withStreams(watch, async (streams) => {
    for await (const _ of streams.open(request, never)) break;
    await eventually(() => open === 0, 'the call of the loop that was left has ended');

    const abort = new AbortController();
    const stream = streams.open(request, abort.signal);
    assert.equal((await stream.next()).done, false);
    const next = stream.next();
    assert.equal(open, 1);
    abort.abort();
    assert.equal((await next).done, true);
    await eventually(() => open === 0, 'the call of the aborted stream has ended');
    assert.equal((await streams.open(request, abort.signal).next()).done, true);
    assert.equal(open, 0, 'an aborted signal asks nobody');
  });
});

test('a server that says nothing in time is DEPENDENCY_DOWN and its call is ended', async () => {
  let open = 0;
  // biome-ignore lint/correctness/useYield: it is silent.
  const watch: Watch = async function* (_request, { signal }) {
    open += 1;
    await over(signal);
    open -= 1;
  };
  // Long enough that the server is asked, also on a slow machine.
  const options = { firstMessageMs: 1_000 };
  await withStreams(
    watch,
    async (streams) => {
      await assertRefused(streams.open(request, never).next(), 'DEPENDENCY_DOWN');
      await eventually(() => open === 0, 'the call has ended');
    },
    options,
  );
});

test('a refusal arrives as it is, and a stream that breaks is DEPENDENCY_DOWN', async () => {
  const watch: Watch = async function* ({ orderId }) {
    if (orderId === 1n) throw new Refusal('NOT_FOUND', 'no such order');
    yield message;
    throw new Error('secret text');
  };
  await withStreams(watch, async (streams) => {
    await assertRefused(streams.open(request, never).next(), 'NOT_FOUND');
    const stream = streams.open({ orderId: 2n, userId: 1n }, never);
    await stream.next();
    await assertRefused(stream.next(), 'DEPENDENCY_DOWN');
  });
});

test('one stream too many is OVERLOADED, and each that ends makes room', async () => {
  const watch: Watch = async function* (_request, { signal }) {
    yield message;
    await over(signal);
  };
  await withStreams(
    watch,
    async (streams) => {
      const abort = new AbortController();
      const first = streams.open(request, abort.signal);
      await first.next();
      const second = streams.open(request, never);
      await second.next();
      await assertRefused(streams.open(request, never).next(), 'OVERLOADED');
      abort.abort();
      await first.next();
      assert.equal((await streams.open(request, never).next()).done, false);
      await assertRefused(streams.open(request, never).next(), 'OVERLOADED');
    },
    { streamsMax: 2 },
  );
});

test('a circuit opens after ten silent streams, and not for callers that leave or refusals', async () => {
  let asked = 0;
  let silent = true;
  const watch: Watch = async function* ({ orderId }, { signal }) {
    asked += 1;
    if (orderId === 2n) throw new Refusal('NOT_FOUND');
    if (silent) await over(signal);
    else yield message;
  };
  await withStreams(
    watch,
    async (streams) => {
      for (let count = 0; count < 20; count += 1) {
        await assertRefused(streams.open({ orderId: 2n, userId: 1n }, never).next(), 'NOT_FOUND');
      }
      for (let count = 0; count < 20; count += 1) {
        const abort = new AbortController();
        const next = streams.open(request, abort.signal).next();
        await eventually(() => asked >= 21 + count, 'the stream is asked for');
        abort.abort();
        assert.equal((await next).done, true);
      }
      silent = false;
      assert.equal((await streams.open(request, never).next()).done, false);
      silent = true;
      const silents = Array.from({ length: 10 }, () => streams.open(request, never).next());
      await Promise.all(silents.map((next) => assertRefused(next, 'DEPENDENCY_DOWN')));
      await eventually(() => asked >= 51, 'the server was asked for all of them');
      const before = asked;
      await assertRefused(streams.open(request, never).next(), 'DEPENDENCY_DOWN');
      assert.equal(asked, before, 'nobody is asked while the circuit is open');
    },
    { firstMessageMs: 2_500 },
  );
});

test('a server that comes back is used again', async () => {
  const watch: Watch = async function* () {
    yield message;
  };
  // Not one of those that connections get theirs from, which it might not find free again.
  const port = await freePort();
  const first = await startOrders(watch, port);
  const streams = streamsTo(port);
  assert.equal((await streams.open(request, never).next()).done, false);
  await first.stop();
  for (let count = 0; count < 12; count += 1) {
    await assertRefused(streams.open(request, never).next(), 'DEPENDENCY_DOWN');
  }
  const second = await startOrders(watch, port);
  try {
    await eventually(async () => {
      const next = await streams
        .open(request, never)
        .next()
        .catch(() => undefined);
      return next?.done === false;
    }, 'streams are opened again');
  } finally {
    streams.close();
    await second.stop();
  }
});

test('streams go to the copy that has the fewest, and elsewhere when one goes away', async () => {
  const open = [0, 0];
  const watchOf = (index: 0 | 1): Watch =>
    async function* (_request, { signal }) {
      open[index] = (open[index] ?? 0) + 1;
      yield message;
      await over(signal);
      open[index] = (open[index] ?? 0) - 1;
    };
  const servers = [await startOrders(watchOf(0)), await startOrders(watchOf(1))] as const;
  const streams = streamsTo(servers.map(({ port }) => port));
  const abort = new AbortController();
  const openOne = (): Promise<IteratorResult<WatchOrderResponse>> =>
    streams.open(request, abort.signal).next();
  try {
    // Both are connected once the load is even.
    await eventually(async () => {
      await openOne();
      return (open[0] ?? 0) > 2 && open[0] === open[1];
    }, 'both copies have as many');
    const [before] = open;
    for (let count = 0; count < 6; count += 1) await openOne();
    assert.deepEqual(open, [(before ?? 0) + 3, (before ?? 0) + 3]);
    const stopped = servers[0].stop();
    for (let count = 0; count < 10; count += 1) assert.equal((await openOne()).done, false);
    abort.abort();
    await stopped;
  } finally {
    streams.close();
    for (const server of servers) await server.stop();
  }
});

test('more streams than a server takes on one connection are all served', async () => {
  const watch: Watch = async function* (_request, { signal }) {
    yield message;
    await over(signal);
  };
  await withStreams(
    watch,
    async (streams) => {
      const abort = new AbortController();
      const open: AsyncGenerator<WatchOrderResponse, void>[] = [];
      while (open.length < 2_100) {
        // Some at a time: a connection that is being made must not wait for a thousand calls to be built.
        const next = Array.from({ length: 100 }, () => streams.open(request, abort.signal));
        const firsts = await Promise.all(next.map((stream) => stream.next()));
        assert.ok(firsts.every(({ done }) => done === false));
        open.push(...next);
      }
      abort.abort();
      await Promise.all(open.map((stream) => stream.next()));
    },
    { streamsMax: 3_000, firstMessageMs: 20_000 },
  );
});
