import assert from 'node:assert/strict';
import { createServer as createTcpServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../deploy/local/port.ts';
import {
  StockServiceDefinition,
  type StockServiceImplementation,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { ConfigError } from '../../services/runtime/env.ts';
import { createGrpcClient } from '../../services/runtime/grpc-client.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';

const log = createLog('test', 'silent');
/** A deadline that passes soon, and not before the call is at the server, also on a machine that pauses. */
const shortMs = 2_500;

type Stock = StockServiceImplementation<DeadlineContext>;

function stockWith(methods: Partial<Stock>): Stock {
  const absent = async (): Promise<never> => {
    throw new Refusal('NOT_FOUND');
  };
  const base = {
    reserveStock: absent,
    releaseStock: absent,
    batchGetStock: absent,
    getSku: absent,
    listSkus: absent,
  };
  return { ...base, ...methods };
}

async function startStock(methods: Partial<Stock>, inFlightMax = 100, port = 0) {
  return await startGrpcServer({
    host: '127.0.0.1',
    port,
    services: [service(StockServiceDefinition, stockWith(methods))],
    log,
    inFlightMax,
  });
}

/** A connected client: the policy waits for a connection for two seconds, whatever the deadline. */
async function connectTo(port: number): Promise<ReturnType<typeof clientOf>> {
  const connection = clientOf(port);
  await eventually(() => connection.connected(), 'the client is connected');
  return connection;
}

function clientOf(port: number, deadlineMs = 20_000) {
  return createGrpcClient(StockServiceDefinition, {
    addresses: [`127.0.0.1:${port}`],
    callTable: {
      reserveStock: { deadlineMs, breaker: 'stock.reserve' },
      getSku: { deadlineMs, breaker: 'stock.read', readOnly: true, retry: true },
    },
    log,
  });
}

async function reasonOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'answered';
  } catch (error) {
    assert(error instanceof Refusal, String(error));
    return error.reason;
  }
}

test('the deadline reaches the server as a budget and as the end of the call', async () => {
  let budgetMs = Number.NaN;
  let serverSawTheEnd = false;
  const server = await startStock({
    reserveStock: async (_request, context) => {
      budgetMs = context.deadline.leftMs();
      await new Promise<void>((resolve) => {
        context.signal.addEventListener('abort', () => {
          serverSawTheEnd = true;
          resolve();
        });
      });
      return { results: [] };
    },
  });
  // A raw channel without any local timer: only grpc-timeout on the wire can end this call.
  const { createChannel, createClient, Metadata } = await import('nice-grpc');
  const channel = createChannel(`127.0.0.1:${server.port}`);
  const raw = createClient(StockServiceDefinition, channel);
  const metadata = Metadata({
    'grpc-timeout': `${shortMs}m`,
    'x-deadline-left-ms': String(shortMs),
  });
  await assert.rejects(raw.reserveStock({ reservations: [] }, { metadata }), /DEADLINE_EXCEEDED/);
  await eventually(() => serverSawTheEnd, 'the handler is told that the call is over');
  assert(budgetMs > 0 && budgetMs <= shortMs, `budget ${budgetMs}`);
  channel.close();

  const { client, close } = await connectTo(server.port);
  serverSawTheEnd = false;
  const call = client.reserveStock({ reservations: [] }, { deadline: Deadline.after(shortMs) });
  assert.equal(await reasonOf(call), 'OUTCOME_UNKNOWN');
  await eventually(() => serverSawTheEnd, 'the policy sends the deadline too');
  assert(budgetMs <= shortMs, `the caller's shorter deadline wins: ${budgetMs}`);
  close();
  await server.stop();
});

test('a refusal crosses the wire with its reason, SKU, violations and delay', async () => {
  const violations = [{ field: 'sku_id', description: 'must be positive' }];
  const server = await startStock({
    getSku: async ({ skuId }) => {
      throw skuId === 1n
        ? new Refusal('SOLD_OUT', 'gone', { skuId: 7n })
        : new Refusal('INVALID_REQUEST', 'bad', { violations, retryAfterMs: 1_500 });
    },
  });
  const { client, close } = await connectTo(server.port);
  await assert.rejects(client.getSku({ skuId: 1n }), (error) => {
    assert(error instanceof Refusal);
    assert.equal(error.reason, 'SOLD_OUT');
    assert.equal(error.skuId, 7n);
    assert.equal(error.message, 'gone');
    return true;
  });
  await assert.rejects(client.getSku({ skuId: 2n }), (error) => {
    assert(error instanceof Refusal);
    assert.deepEqual(
      error.violations.map(({ field, description }) => ({ field, description })),
      violations,
    );
    assert.equal(error.retryAfterMs, 1_500);
    return true;
  });
  close();
  await server.stop();
});

test('an unexpected error is INTERNAL to the caller, and its text stays inside', async () => {
  const server = await startStock({
    reserveStock: async () => {
      throw new TypeError('secret text');
    },
  });
  const { client, close } = await connectTo(server.port);
  await assert.rejects(client.reserveStock({ reservations: [] }), (error) => {
    assert(error instanceof Refusal);
    assert.equal(error.reason, 'OUTCOME_UNKNOWN');
    assert(!`${error.message} ${(error.cause as Error).message}`.includes('secret text'));
    return true;
  });
  close();
  await server.stop();
});

test('calls over the in-flight limit are refused as OVERLOADED, the others are served', async () => {
  let release = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const server = await startStock(
    {
      reserveStock: async () => {
        await gate;
        return { results: [] };
      },
    },
    2,
  );
  const { client, close } = await connectTo(server.port);
  const calls = [1, 2, 3].map(() => reasonOf(client.reserveStock({ reservations: [] })));
  assert.equal(await Promise.race(calls), 'OVERLOADED');
  release();
  assert.deepEqual((await Promise.all(calls)).sort(), ['OVERLOADED', 'answered', 'answered']);
  close();
  await server.stop();
});

test('calls of one method that hang leave places for the other methods', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  let begun = 0;
  const server = await startStock(
    {
      reserveStock: async () => {
        begun += 1;
        await promise;
        return { results: [] };
      },
    },
    16,
  );
  const { client, close } = await connectTo(server.port);
  const calls = Array.from({ length: 16 }, () =>
    reasonOf(client.reserveStock({ reservations: [] })),
  );
  await eventually(() => begun === 14, 'all but an eighth of the places are taken');
  // What is answered here came through the door.
  assert.equal(await reasonOf(client.getSku({ skuId: 1n })), 'NOT_FOUND');
  resolve();
  const reasons = await Promise.all(calls);
  assert.equal(reasons.filter((reason) => reason === 'OVERLOADED').length, 2);
  close();
  await server.stop();
});

test('without a server nothing is sent, and ten failures open the circuit until it is back', async () => {
  // Not one of those that connections get theirs from, which it might not find free again.
  const port = await freePort();
  const first = await startStock({ reserveStock: async () => ({ results: [] }) }, 100, port);
  const connection = await connectTo(port);
  await connection.client.reserveStock({ reservations: [] });
  await first.stop();
  await eventually(() => !connection.connected(), 'the connection is lost');
  for (let call = 0; call < 10; call += 1) {
    assert.equal(
      await reasonOf(connection.client.reserveStock({ reservations: [] })),
      'DEPENDENCY_DOWN',
    );
  }
  assert.equal(connection.breaker('stock.reserve')?.open, true);
  const second = await startStock({ reserveStock: async () => ({ results: [] }) }, 100, port);
  await eventually(() => !connection.breaker('stock.reserve')?.open, 'the circuit closes again');
  await connection.client.reserveStock({ reservations: [] });
  connection.close();
  await second.stop();
});

test('business refusals never open a circuit', async () => {
  const server = await startStock({
    reserveStock: async () => {
      throw new Refusal('SOLD_OUT');
    },
  });
  const { client, breaker, close } = await connectTo(server.port);
  for (let call = 0; call < 40; call += 1) {
    assert.equal(await reasonOf(client.reserveStock({ reservations: [] })), 'SOLD_OUT');
  }
  assert.equal(breaker('stock.reserve')?.open, false);
  close();
  await server.stop();
});

test('a peer that answers that it is full, or that what it needs is away, opens no circuit', async () => {
  for (const reason of ['OVERLOADED', 'DEPENDENCY_DOWN'] as const) {
    const server = await startStock({
      getSku: async () => {
        throw new Refusal(reason);
      },
    });
    const { client, breaker, close } = await connectTo(server.port);
    for (let call = 0; call < 40; call += 1) {
      assert.equal(await reasonOf(client.getSku({ skuId: 1n })), reason);
    }
    assert.equal(breaker('stock.read')?.open, false);
    close();
    await server.stop();
  }
});

test('callers without time get their timeouts and leave the circuit closed for the others', async () => {
  let slow = false;
  const server = await startStock({
    reserveStock: async (_request, { signal }) => {
      if (slow) await new Promise((resolve) => signal.addEventListener('abort', resolve));
      return { results: [] };
    },
  });
  const { client, breaker, close } = await connectTo(server.port);
  await client.reserveStock({ reservations: [] });
  slow = true;
  const hasty = Array.from({ length: 15 }, () =>
    reasonOf(client.reserveStock({ reservations: [] }, { deadline: Deadline.after(shortMs) })),
  );
  for (const reason of await Promise.all(hasty)) assert.equal(reason, 'OUTCOME_UNKNOWN');
  slow = false;
  assert.equal(breaker('stock.reserve')?.open, false);
  await client.reserveStock({ reservations: [] });
  close();
  await server.stop();
});

test('a method that is named for operators and does not exist keeps the server from starting', async () => {
  const options = { adminOnly: ['getSkus'] };
  const services = [service(StockServiceDefinition, stockWith({}), options)];
  await assert.rejects(
    startGrpcServer({ host: '127.0.0.1', port: 0, services, log, inFlightMax: 1 }),
    /sluice\.stock\.v1\.StockService has no method getSkus/,
  );
});

test('several addresses by name are a setting that cannot be used', () => {
  const addresses = ['stock-1:50052', 'stock-2:50052'];
  const options = { addresses, callTable: {}, log };
  assert.throws(() => createGrpcClient(StockServiceDefinition, options), ConfigError);
});

test('a peer that accepts TCP but never speaks is given up within the deadline', async () => {
  const sockets = new Set<Socket>();
  const silent = createTcpServer((socket) => sockets.add(socket));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const { port } = silent.address() as { port: number };
  const { client, close } = clientOf(port, 400);
  assert.equal(await reasonOf(client.reserveStock({ reservations: [] })), 'DEPENDENCY_DOWN');
  close();
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => silent.close(resolve));
  await sleep(0);
});
