import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { migrateAll } from '../../db/migrate.ts';
import { freePort } from '../../deploy/local/port.ts';
import { type RedisServer, startRedis } from '../../deploy/local/redis.ts';
import { createEventTopics } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { dropDatabases } from './databases.ts';
import { eventually } from './eventually.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from './servers.ts';
import { connectClients, type SystemClients } from './system-clients.ts';
import {
  orderShards,
  type ProcessesOptions,
  type SystemProcesses,
  startProcesses,
} from './system-processes.ts';
import { answered } from './workload.ts';

export { orderShards };

export interface SystemOptions extends ProcessesOptions {
  /** Names the databases, topics and logs. */
  readonly name: string;
  /** Databases that exist already, perhaps on another server; they are left there. Default: new ones. */
  readonly filled?: { readonly prefix: string; readonly mysqlUrl: string };
  /** The database servers, over which the order databases are spread; whoever started others removes them. */
  readonly mysqlUrls?: readonly [string, ...string[]];
  /** More variables for the Redis server. */
  readonly redisEnv?: NodeJS.ProcessEnv;
}

/** Real processes of the services on databases, topics and a Redis server of their own. */
export interface System extends SystemProcesses, Omit<SystemClients, 'closeChannels'> {
  readonly prefix: string;
  /** Where the mail server keeps what arrived. */
  readonly mailDir: string;
  readonly redis: Redis;
  readonly redisServer: RedisServer;
  /** Kills Redis and starts it again on the same port; `args` may point it at older data. */
  restartRedis(args?: readonly string[]): Promise<void>;
  readonly stockPool: Pool;
  readonly orderPools: readonly Pool[];
  readonly paymentPool: Pool;
  readonly eventsPool: Pool;
  readonly warehousePool: Pool;
  /** Whether a SKU's gate is open; no while Redis is away. */
  gateOpen(skuId: bigint): Promise<boolean>;
  /** Creates a SKU and waits until its gate is open. */
  createSku(sku: { skuId: bigint; supplied: bigint; limitPerUser?: number }): Promise<void>;
  close(): Promise<void>;
}

export async function startSystem(options: SystemOptions): Promise<System> {
  const { filled } = options;
  const prefix = filled?.prefix ?? uniquePrefix(options.name);
  const mysqlUrls = options.mysqlUrls ?? ([filled?.mysqlUrl ?? mysqlUrl] as const);
  const dir = mkdtempSync(join(tmpdir(), 'sluice-'));
  const redisDir = join(dir, 'redis');
  await Promise.all([
    filled ?? migrateAll({ mysqlUrls: [...mysqlUrls], databasePrefix: prefix, orderShards }),
    createEventTopics(kafkaBrokers.split(','), `${prefix}.`, createLog('test', 'silent')),
  ]);
  const env = { ...process.env, ...options.redisEnv };
  let redisServer = await startRedis({ dir: redisDir, port: await freePort(), env });
  const place = { dir, prefix, mysqlUrls, redisUrl: redisServer.url };
  const running = await startProcesses(options, place).catch(async (error) => {
    await redisServer.stop();
    throw error;
  });
  const { closeChannels, ...clients } = connectClients(running);
  const { admin } = clients;
  const redis = new Redis(redisServer.url, { maxRetriesPerRequest: null });
  redis.on('error', () => undefined);
  const pools = openPools(mysqlUrls, prefix);

  const gateOpen = async (skuId: bigint): Promise<boolean> => {
    const layers = await admin.getStockLayers({ skuId }).catch(() => undefined);
    return layers?.gate?.loaded ?? false;
  };

  return {
    prefix,
    ...running,
    ...clients,
    ...pools,
    mailDir: join(dir, 'mail'),
    redis,
    get redisServer() {
      return redisServer;
    },
    async restartRedis(args = []) {
      await redisServer.kill();
      const { port } = redisServer;
      redisServer = await startRedis({ dir: redisDir, port, args, env });
    },
    gateOpen,
    async createSku({ skuId, supplied, limitPerUser = 0 }) {
      const sku = {
        skuId,
        title: `Thing ${skuId}`,
        unitPrice: { currencyCode: 'EUR', minorUnits: 1_999n },
        supplied,
        limitPerUser,
      };
      await answered(() => admin.createSku(sku));
      await eventually(() => gateOpen(skuId), `the gate of SKU ${skuId} opens`);
    },
    async close() {
      closeChannels();
      await Promise.all(running.processes.map((each) => each.process.stop()));
      redis.disconnect();
      await redisServer.stop();
      await Promise.all(Object.values(pools).flatMap((each) => [each].flat().map((p) => p.end())));
      if (filled === undefined && mysqlUrls[0] === mysqlUrl) await dropDatabases(prefix);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function openPools(mysqlUrls: readonly [string, ...string[]], prefix: string) {
  const pool = (name: string, url = mysqlUrls[0]): Pool =>
    createPool(url, { database: `${prefix}_${name}`, connectionsMax: 4 });
  return {
    stockPool: pool('stock'),
    orderPools: Array.from({ length: orderShards.databases }, (_, index) =>
      pool(`order_${index}`, mysqlUrls[index % mysqlUrls.length]),
    ),
    paymentPool: pool('payment'),
    eventsPool: pool('events'),
    warehousePool: pool('warehouse'),
  };
}
