import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import { migrateAll } from '../../db/migrate.ts';
import { freePort } from '../../deploy/local/port.ts';
import { startRedis } from '../../deploy/local/redis.ts';
import {
  type OrderServiceClient,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import {
  type StockAdminServiceClient,
  StockAdminServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import {
  type StockServiceClient,
  StockServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { compose as composeOrder } from '../../services/order/compose.ts';
import { readConfig as readOrderConfig } from '../../services/order/config.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { createEventTopics } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { compose as composeStock } from '../../services/stock/compose.ts';
import { readConfig as readStockConfig } from '../../services/stock/config.ts';
import { dropDatabases } from './databases.ts';
import { eventually } from './eventually.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from './servers.ts';
import { orderShards } from './system.ts';

/** One order service with the stock service it calls; failpoints reach into both. */
export interface Side {
  readonly order: OrderServiceClient;
  readonly stock: StockServiceClient;
  readonly admin: StockAdminServiceClient;
}

/** Two sides in this very process, on one Redis and one set of databases. */
export interface Composed {
  readonly a: Side;
  readonly b: Side;
  readonly redis: Redis;
  readonly stockPool: Pool;
  readonly orderPools: readonly Pool[];
  /** Kills Redis, runs `meanwhile`, and starts it again on the same port and folder. */
  restartRedis(meanwhile?: (dir: string) => void): Promise<void>;
  close(): Promise<void>;
}

/** Age at which loops settle what was left behind; short, so that a test need not wait 15 s. */
export const settleAgeMs = 2_000;

export async function compose(
  name: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Composed> {
  const prefix = uniquePrefix(name);
  const dir = mkdtempSync(join(tmpdir(), 'sluice-'));
  const redisDir = join(dir, 'redis');
  let redisServer = await startRedis({ dir: redisDir, port: await freePort() });
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  await createEventTopics(kafkaBrokers.split(','), `${prefix}.`, createLog('test', 'silent'));
  const variables: Record<string, string> = {
    SLUICE_MYSQL_URLS: mysqlUrl,
    SLUICE_REDIS_URL: redisServer.url,
    SLUICE_KAFKA_BROKERS: kafkaBrokers,
    SLUICE_DATABASE_PREFIX: prefix,
    SLUICE_KAFKA_TOPIC_PREFIX: `${prefix}.`,
    SLUICE_ORDER_SHARDS: `${orderShards.databases}x${orderShards.tables}`,
    SLUICE_DEMO: '1',
    // Tests hold transactions at failpoints for longer than a process may.
    SLUICE_MYSQL_REST_SECONDS: '60',
    SLUICE_LOG_LEVEL: process.env.SLUICE_LOG_LEVEL ?? 'silent',
    SLUICE_SETTLE_AGE_MS: String(settleAgeMs),
    ...env,
  };
  const stops: (() => Promise<void> | void)[] = [];
  const a = await startSide(variables, stops);
  const b = await startSide(variables, stops);
  const redis = new Redis(redisServer.url, { maxRetriesPerRequest: null });
  redis.on('error', () => undefined);
  const pool = (database: string): Pool => createPool(mysqlUrl, { database, connectionsMax: 4 });
  const stockPool = pool(`${prefix}_stock`);
  const orderPools = Array.from({ length: orderShards.databases }, (_, index) =>
    pool(`${prefix}_order_${index}`),
  );
  return {
    a,
    b,
    redis,
    stockPool,
    orderPools,
    async restartRedis(meanwhile) {
      const { port } = redisServer;
      await redisServer.kill();
      meanwhile?.(redisDir);
      redisServer = await startRedis({ dir: redisDir, port });
    },
    async close() {
      clearFailpoints();
      for (const stop of stops.reverse()) await stop();
      redis.disconnect();
      await redisServer.stop();
      await Promise.all([stockPool, ...orderPools].map((each) => each.end()));
      await dropDatabases(prefix);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function startSide(
  variables: Readonly<Record<string, string>>,
  stops: (() => Promise<void> | void)[],
): Promise<Side> {
  // Each must know the other's port before it starts.
  const orderPort = String(await freePort());
  const stockPort = String(await freePort());
  const env = {
    ...variables,
    SLUICE_ORDER_ADDRESS: `127.0.0.1:${orderPort}`,
    SLUICE_STOCK_ADDRESS: `127.0.0.1:${stockPort}`,
    SLUICE_ORDER_PORT: orderPort,
    SLUICE_STOCK_PORT: stockPort,
    SLUICE_ORDER_METRICS_PORT: '0',
    SLUICE_STOCK_METRICS_PORT: '0',
  };
  const stock = await composeStock(readStockConfig(env));
  stops.push(() => stock.lifecycle.stop());
  const order = await composeOrder(readOrderConfig(env));
  stops.push(() => order.lifecycle.stop());
  const orderChannel = createChannel(`127.0.0.1:${orderPort}`);
  const stockChannel = createChannel(`127.0.0.1:${stockPort}`);
  stops.push(() => {
    orderChannel.close();
    stockChannel.close();
  });
  const { token } = createTokens({ secret: demoTokenSecret }).sign({
    userId: 1n,
    role: 'admin',
    ttlSeconds: 3_600,
  });
  const metadata = Metadata({ authorization: `Bearer ${token}` });
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  const side = {
    order: factory.create(OrderServiceDefinition, orderChannel) as OrderServiceClient,
    stock: factory.create(StockServiceDefinition, stockChannel) as StockServiceClient,
    admin: factory.create(StockAdminServiceDefinition, stockChannel, {
      '*': { metadata },
    }) as StockAdminServiceClient,
  };
  return side;
}

/** A failpoint that holds whoever hits it first, until released; later hits pass. */
export interface Pause {
  /** Resolves when somebody is held. */
  readonly reached: Promise<Readonly<Record<string, unknown>>>;
  release(): void;
}

/** Every pause that was not released yet. */
const pauses = new Set<() => void>();

/** @param isMeant leaves others through, where the services come by in the background too */
export function pauseAt(
  place: string,
  isMeant: (info: Readonly<Record<string, unknown>>) => boolean = () => true,
): Pause {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => {
    release = () => {
      pauses.delete(release);
      resolve();
    };
  });
  pauses.add(release);
  let used = false;
  const reached = new Promise<Readonly<Record<string, unknown>>>((resolve) => {
    failpoints.set(place, async (info) => {
      if (used || !isMeant(info)) return;
      used = true;
      resolve(info);
      await released;
    });
  });
  return { reached, release };
}

/** Removes all failpoints and lets go whoever is held: after a test that failed, the next one must not meet them. */
export function clearFailpoints(): void {
  failpoints.clear();
  for (const release of pauses) release();
}

/** A failpoint at which the first to hit it fails, as if its process had died there. */
export function failOnceAt(place: string): { readonly hits: () => number } {
  let hits = 0;
  failpoints.set(place, () => {
    hits += 1;
    if (hits === 1) throw new Error(`died at ${place}`);
  });
  return { hits: () => hits };
}

/** Whether a SKU's gate is open, seen from a side; no while Redis is away. */
export async function isGateOpen({ admin }: Side, skuId: bigint): Promise<boolean> {
  const layers = await admin.getStockLayers({ skuId }).catch(() => undefined);
  return layers?.gate?.loaded ?? false;
}

/** Waits until the gate of a SKU is open, seen from a side. */
export async function untilGateOpen(side: Side, skuId: bigint): Promise<void> {
  await eventually(() => isGateOpen(side, skuId), `the gate of SKU ${skuId} opens`);
}
