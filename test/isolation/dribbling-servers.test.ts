import assert from 'node:assert/strict';
import { connect, createServer, type Socket } from 'node:net';
import { after, test } from 'node:test';
import { Deadline } from '../../services/runtime/deadline.ts';
import { JudgedTime } from '../../services/runtime/judged-time.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, query } from '../../services/runtime/mysql.ts';
import { connectGate } from '../../services/stock/gate-connection.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl, redisUrl } from '../support/servers.ts';

// A server, or something on the way to it, that sends a byte now and then. The connection is never silent,
// so that no watch over silence helps: it is given up because answers do not come.

const byteEveryMs = 250;

/** A way to a server whose present connections can be made to pass on a byte at a time. */
async function wayTo(url: string) {
  const { hostname, port } = new URL(url);
  const dribbling = new Set<Socket>();
  const sockets = new Set<Socket>();
  const waiting = new Map<Socket, Buffer[]>();
  const listener = createServer((client) => {
    const server = connect(Number(port), hostname);
    const pass = (from: Socket, to: Socket): void => {
      sockets.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        sockets.delete(from);
        dribbling.delete(from);
        to.destroy();
      });
      from.on('data', (bytes: Buffer) => {
        if (dribbling.has(from)) waiting.get(to)?.push(bytes);
        else to.write(bytes);
      });
    };
    pass(client, server);
    pass(server, client);
    waiting.set(client, []);
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const timer = setInterval(() => {
    for (const [to, chunks] of waiting) {
      const [first] = chunks;
      if (first === undefined || to.destroyed) continue;
      to.write(first.subarray(0, 1));
      if (first.length === 1) chunks.shift();
      else chunks[0] = first.subarray(1);
    }
  }, byteEveryMs);
  const through = new URL(url);
  through.port = String((listener.address() as { port: number }).port);
  after(async () => {
    clearInterval(timer);
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => listener.close(resolve));
  });
  return {
    url: through.href,
    /** From now on the connections that are open dribble what the server answers. */
    dribble() {
      for (const socket of sockets) dribbling.add(socket);
    },
  };
}

test('a connection to Redis that dribbles is replaced', async () => {
  const way = await wayTo(redisUrl);
  const log = createLog('test', 'silent');
  const gate = connectGate({ url: way.url, commandTimeoutMs: 300, time: new JudgedTime(), log });
  try {
    await eventually(() => gate.connected, 'it is connected');
    assert.equal(await gate.redis.ping(), 'PONG');
    way.dribble();
    await assert.rejects(gate.redis.ping(), 'its answer does not come in time');
    const answers = async (): Promise<boolean> =>
      (await gate.redis.ping().catch(() => undefined)) === 'PONG';
    await eventually(answers, 'commands are answered again', { withinMs: 20_000 });
  } finally {
    gate.close();
  }
});

test('connections to MySQL that dribble are replaced', async () => {
  const way = await wayTo(mysqlUrl);
  const pool = createPool(way.url, { database: 'mysql', connectionsMax: 2 });
  const ask = (): Promise<unknown> =>
    query(pool, 'SELECT 1 AS one', [], { deadline: Deadline.after(1_000) });
  try {
    await Promise.all([ask(), ask()]);
    way.dribble();
    await assert.rejects(Promise.all([ask(), ask()]), 'the answers do not come in time');
    const answers = async (): Promise<boolean> =>
      ask().then(
        () => true,
        () => false,
      );
    await eventually(answers, 'statements are answered again', { withinMs: 20_000 });
  } finally {
    await pool.end();
  }
});
