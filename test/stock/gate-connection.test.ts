import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Redis } from 'ioredis';
import { freePort } from '../../deploy/local/port.ts';
import { type RedisServer, startRedis } from '../../deploy/local/redis.ts';
import { JudgedTime } from '../../services/runtime/judged-time.ts';
import { createLog } from '../../services/runtime/log.ts';
import {
  connectGate,
  type GateConnection,
  offsetAfter,
} from '../../services/stock/gate-connection.ts';
import { eventually } from '../support/eventually.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';

const dir = mkdtempSync(join(tmpdir(), 'sluice-gate-'));
const redis = await startRedis({ dir, port: await freePort() });
const more: RedisServer[] = [];

/** Passes bytes on to Redis and back, but answers to questions for its time so much later. */
const sockets = new Set<Socket>();
let holdBackMs: () => number = () => 0;
const slow = createServer((client) => {
  const server = connect(Number(new URL(redis.url).port), '127.0.0.1');
  for (const socket of [client, server]) {
    sockets.add(socket);
    socket.on('error', () => undefined);
  }
  server.on('data', (bytes) => client.write(bytes));
  client.on('data', (bytes) => {
    const ms = /\btime\b/i.test(bytes.toString('latin1')) ? holdBackMs() : 0;
    if (ms > 0) {
      server.pause();
      setTimeout(() => server.resume(), ms);
    }
    server.write(bytes);
  });
});
await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve));

after(async () => {
  for (const socket of sockets) socket.destroy();
  slow.close();
  for (const server of [redis, ...more]) await server.stop();
  rmSync(dir, { recursive: true, force: true });
});

function connectSlowly(commandTimeoutMs: number, lookMs?: number): GateConnection {
  const { port } = slow.address() as AddressInfo;
  const log = createLog('test', 'silent');
  const url = `redis://127.0.0.1:${port}`;
  const time = new JudgedTime();
  return connectGate({ url, commandTimeoutMs, time, log, ...(lookMs && { lookMs }) });
}

test('a server that was too slow to tell its time is asked again soon', async () => {
  let asked = 0;
  holdBackMs = () => {
    asked += 1;
    return asked === 1 ? 600 : 0;
  };
  // Otherwise it would not be asked again before the test is over.
  const connection = connectSlowly(200, 600_000);
  try {
    await eventually(() => asked >= 1, 'the time is asked for');
    await eventually(() => connection.connected, 'the time is known');
  } finally {
    connection.close();
  }
});

test('slow answers do not make the clock of the server slow', async () => {
  let asked = 0;
  holdBackMs = () => {
    asked += 1;
    return asked === 1 ? 0 : 1_000;
  };
  const connection = connectSlowly(10_000, 1_500);
  try {
    await eventually(() => connection.connected, 'the time is known');
    // The first answer may have been slow as well, if the machine stood still.
    const firstNowMs = connection.redisNowMs();
    const firstSlowMs = Math.max(0, Date.now() - firstNowMs);
    await eventually(() => asked >= 3, 'a slow answer has come');
    const slowMs = Date.now() - connection.redisNowMs();
    assert(slowMs < firstSlowMs + 500, `${slowMs} ms after ${firstSlowMs} ms`);
  } finally {
    connection.close();
  }
});

test('an answer that cannot be squared with what was known before is believed', () => {
  assert.equal(offsetAfter(undefined, 40, 90), 40, 'never fast');
  assert.equal(offsetAfter(60, 40, 90), 60, 'the clocks agree still');
  assert.equal(offsetAfter(30, 40, 90), 40, 'it went ahead, or was slow');
  assert.equal(offsetAfter(95, 40, 90), 40, 'it went back');
});

for (const [reply, serveStale, ask] of [
  ['READONLY', 'yes', async ({ redis }: GateConnection) => await redis.set('key', 'value')],
  ['MASTERDOWN', 'no', async ({ redis }: GateConnection) => await redis.get('key')],
] as const) {
  test(`a server that answers ${reply} is left for the one that its address leads to now`, async () => {
    const [old, next] = [await addRedis(), await addRedis()];
    const proxy = await startTcpProxy(old.port);
    const url = `redis://127.0.0.1:${proxy.port}`;
    const log = createLog('test', 'silent');
    // It looks at no server by itself while the test lasts: the reply alone must do.
    const options = { url, commandTimeoutMs: 10_000, time: new JudgedTime(), log, lookMs: 600_000 };
    const connection = connectGate(options);
    const demoted = new Redis(old.url);
    try {
      await eventually(() => connection.connected, 'it is connected');
      await ask(connection);
      await demoted.config('SET', 'replica-serve-stale-data', serveStale);
      await demoted.call('REPLICAOF', '127.0.0.1', '1');
      proxy.target(next.port);
      // The connection to it stays open, as that of every server that is demoted and lives on.
      await assert.rejects(ask(connection), new RegExp(reply));
      await eventually(async () => {
        const isSet = await connection.redis.set('key', 'new').catch(() => undefined);
        return isSet === 'OK' && connection.connected;
      }, 'writes are taken again');
      assert.equal(connection.fault, undefined);
    } finally {
      connection.close();
      demoted.disconnect();
      await proxy.stop();
    }
  });
}

/** One more server; it stops with the test file. */
async function addRedis(): Promise<RedisServer> {
  const folder = mkdtempSync(join(dir, 'more-'));
  const server = await startRedis({ dir: folder, port: await freePort() });
  more.push(server);
  return server;
}
