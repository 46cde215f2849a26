import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { freePort } from '../../deploy/local/port.ts';
import { type RedisServer, startRedis } from '../../deploy/local/redis.ts';
import type { Composed } from '../support/composed.ts';
import { eventually } from '../support/eventually.ts';

/** A Redis server that a test may damage, and a client that reaches it whatever the services see. */
export interface RedisNode {
  readonly dir: string;
  readonly port: number;
  readonly client: Redis;
  readonly pid: () => number;
  kill(): Promise<void>;
  /** Starts it again on its folder and port. @throws if it refuses to start */
  start(args?: readonly string[]): Promise<void>;
}

/** Stands where the services look for Redis, and leads them to one node or another. */
export interface RedisFront {
  addNode(args?: readonly string[]): Promise<RedisNode>;
  /** Leads to another node; connections to the one before are cut. */
  pointTo(node: RedisNode): void;
  /** Leads new connections to another node, as a name or a virtual address does; open ones stay where they are. */
  pointNewOnesTo(node: RedisNode): void;
  /** While true, what Redis answers never arrives; what it is asked does. */
  loseReplies(lose: boolean): void;
  close(): Promise<void>;
}

/** Puts a front in the place of the system's Redis, which is killed. */
export async function frontRedis(system: Composed): Promise<RedisFront> {
  const info = await system.redis.info('server');
  const port = Number(/tcp_port:(\d+)/.exec(info)?.[1]);
  process.kill(Number(/process_id:(\d+)/.exec(info)?.[1]), 'SIGKILL');
  const dir = mkdtempSync(join(tmpdir(), 'sluice-nodes-'));
  const nodes: RedisNode[] = [];
  const sockets = new Set<Socket>();
  let target: RedisNode | undefined;
  let losing = false;

  const server = createServer((incoming) => {
    const outgoing = connect({ port: target?.port ?? 0, host: '127.0.0.1' });
    for (const socket of [incoming, outgoing]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        incoming.destroy();
        outgoing.destroy();
      });
    }
    incoming.on('data', (data) => outgoing.write(data));
    outgoing.on('data', (data) => {
      if (!losing) incoming.write(data);
    });
  });
  await listenWhenFree(server, port);

  return {
    async addNode(args) {
      const node = await startNode(join(dir, `node-${nodes.length}`), args);
      nodes.push(node);
      return node;
    },
    pointTo(node) {
      target = node;
      for (const socket of sockets) socket.destroy();
    },
    pointNewOnesTo(node) {
      target = node;
    },
    loseReplies(lose) {
      losing = lose;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      for (const node of nodes) {
        node.client.disconnect();
        await node.kill().catch(() => undefined);
      }
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function listenWhenFree(server: Server, port: number): Promise<void> {
  const listen = () =>
    new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
  await eventually(listen, `port ${port} is free`);
}

/** A replica is served at once instead of after the 5 s in which others might ask too. */
const syncAtOnce = ['--repl-diskless-sync-delay', '0'];

async function startNode(dir: string, args: readonly string[] = []): Promise<RedisNode> {
  const port = await freePort();
  let server: RedisServer = await startRedis({ dir, port, args: [...syncAtOnce, ...args] });
  const client = new Redis(server.url, { maxRetriesPerRequest: null });
  client.on('error', () => undefined);
  let pid = await pidOf(client);
  return {
    dir,
    port,
    client,
    pid: () => pid,
    kill: () => server.kill(),
    async start(more = []) {
      server = await startRedis({ dir, port, args: [...syncAtOnce, ...more] });
      await eventually(() => client.status === 'ready', 'the node is reached again');
      pid = await pidOf(client);
    },
  };
}

async function pidOf(client: Redis): Promise<number> {
  return Number(/process_id:(\d+)/.exec(await client.info('server'))?.[1]);
}

/** Makes a node follow another, and waits until it has all of it. */
export async function follow(replica: RedisNode, master: RedisNode): Promise<void> {
  await replica.client.replicaof('127.0.0.1', master.port);
  await eventually(
    async () => /master_link_status:up/.test(await replica.client.info('replication')),
    'the replica has caught up',
  );
}
