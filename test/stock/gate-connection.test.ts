import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { freePort } from '../../deploy/local/port.ts';
import { startRedis } from '../../deploy/local/redis.ts';
import { createLog } from '../../services/runtime/log.ts';
import { connectGate } from '../../services/stock/gate-connection.ts';
import { eventually } from '../support/eventually.ts';

const dir = mkdtempSync(join(tmpdir(), 'sluice-gate-'));
const redis = await startRedis({ dir, port: await freePort() });
const commandTimeoutMs = 200;
const stalledMs = 600;
/** Half of the time after which the clock is asked for anyway. */
const knownWithinMs = 5_000;

/** Passes bytes on to Redis, and stalls once at the first question for its time. */
const sockets = new Set<Socket>();
let stalls = 0;
const slow = createServer((client) => {
  const server = connect(Number(new URL(redis.url).port), '127.0.0.1');
  for (const socket of [client, server]) {
    sockets.add(socket);
    socket.on('error', () => undefined);
  }
  server.pipe(client);
  client.on('data', (bytes) => {
    if (stalls > 0 || !/\btime\b/i.test(bytes.toString('latin1'))) {
      server.write(bytes);
      return;
    }
    stalls += 1;
    client.pause();
    setTimeout(() => {
      server.write(bytes);
      client.resume();
    }, stalledMs);
  });
});
await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve));

after(async () => {
  for (const socket of sockets) socket.destroy();
  slow.close();
  await redis.stop();
  rmSync(dir, { recursive: true, force: true });
});

test('a server that was too slow to tell its time is asked again soon', async () => {
  const { port } = slow.address() as AddressInfo;
  const log = createLog('test', 'silent');
  const connection = connectGate({ url: `redis://127.0.0.1:${port}`, commandTimeoutMs, log });
  try {
    await eventually(() => stalls === 1, 'the time is asked for');
    await eventually(() => connection.connected, 'the time is known', { withinMs: knownWithinMs });
    assert(Math.abs(connection.redisNowMs() - Date.now()) < stalledMs + 1_000);
  } finally {
    connection.close();
  }
});
