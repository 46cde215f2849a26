import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import { migrateAll } from '../../db/migrate.ts';
import { freePort } from '../../deploy/local/port.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from '../../deploy/local/process.ts';
import { type RedisServer, startRedis } from '../../deploy/local/redis.ts';
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
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { createEventTopics } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { dropDatabases } from './databases.ts';
import { eventually } from './eventually.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from './servers.ts';

const repository = join(import.meta.dirname, '../..');
const readyTimeoutMs = 60_000;
/** Small tables: what is tested is that there are several of both. */
export const orderShards = { databases: 2, tables: 2 };

export interface SystemOptions {
  /** Names the databases, topics and logs. */
  readonly name: string;
  readonly orders?: number;
  readonly stocks?: number;
  readonly edge?: boolean;
  /** More variables for every service. */
  readonly env?: Readonly<Record<string, string>>;
}

/** One service process, which can be killed and started again on its ports. */
export interface ServiceProcess {
  readonly service: 'order' | 'stock' | 'edge';
  readonly port: number;
  readonly metricsPort: number;
  readonly process: ManagedProcess;
  kill(): Promise<void>;
  /** Starts it again; `env` adds to its variables, for failpoints. */
  restart(env?: Readonly<Record<string, string>>): Promise<void>;
}

/** Real processes of the services on databases, topics and a Redis server of their own. */
export interface System {
  readonly prefix: string;
  readonly orders: readonly ServiceProcess[];
  readonly stocks: readonly ServiceProcess[];
  readonly edge: ServiceProcess | undefined;
  /** A client of the i-th order process; errors are `RichClientError`. */
  order(index?: number): OrderServiceClient;
  readonly stock: StockServiceClient;
  readonly admin: StockAdminServiceClient;
  readonly redis: Redis;
  readonly redisServer: RedisServer;
  /** Kills Redis and starts it again on the same port; `args` may point it at older data. */
  restartRedis(args?: readonly string[]): Promise<void>;
  readonly stockPool: Pool;
  readonly orderPools: readonly Pool[];
  /** Whether a SKU's gate is open; no while Redis is away. */
  gateOpen(skuId: bigint): Promise<boolean>;
  /** Creates a SKU and waits until its gate is open. */
  createSku(sku: { skuId: bigint; supplied: bigint; limitPerUser?: number }): Promise<void>;
  close(): Promise<void>;
}

export async function startSystem(options: SystemOptions): Promise<System> {
  const { name, orders = 1, stocks = 1, edge = false } = options;
  const prefix = uniquePrefix(name);
  const dir = mkdtempSync(join(tmpdir(), 'sluice-'));
  const log = createLog('test', 'silent');
  let redisServer = await startRedis({ dir: join(dir, 'redis'), port: await freePort() });
  const topicPrefix = `${prefix}.`;
  await Promise.all([
    migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards }),
    createEventTopics(kafkaBrokers.split(','), topicPrefix, log),
  ]);
  const stockPorts = await ports(stocks);
  const orderPorts = await ports(orders);
  const addresses = (list: readonly [number, number][]): string =>
    list.map(([port]) => `127.0.0.1:${port}`).join(',');
  const env: Record<string, string> = {
    SLUICE_MYSQL_URLS: mysqlUrl,
    SLUICE_REDIS_URL: redisServer.url,
    SLUICE_KAFKA_BROKERS: kafkaBrokers,
    SLUICE_DATABASE_PREFIX: prefix,
    SLUICE_KAFKA_TOPIC_PREFIX: topicPrefix,
    SLUICE_ORDER_SHARDS: `${orderShards.databases}x${orderShards.tables}`,
    SLUICE_ORDER_ADDRESS: addresses(orderPorts),
    SLUICE_STOCK_ADDRESS: addresses(stockPorts),
    SLUICE_DEMO: '1',
    ...options.env,
  };
  const start = (service: ServiceProcess['service'], [port, metricsPort]: [number, number]) =>
    startService({ service, port, metricsPort, dir, env });
  const stockProcesses = await Promise.all(stockPorts.map((each) => start('stock', each)));
  const orderProcesses = await Promise.all(orderPorts.map((each) => start('order', each)));
  const edgeProcess = edge
    ? await start('edge', (await ports(1))[0] as [number, number])
    : undefined;

  const channels = [...orderPorts, ...stockPorts].map(([port]) =>
    createChannel(`127.0.0.1:${port}`, undefined, { 'grpc.use_local_subchannel_pool': 1 }),
  );
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  const orderClients = channels
    .slice(0, orders)
    .map((channel) => factory.create(OrderServiceDefinition, channel) as OrderServiceClient);
  const stockChannel = channels[orders] as (typeof channels)[number];
  const { token } = createTokens({ secret: demoTokenSecret }).sign({
    userId: 1n,
    role: 'admin',
    ttlSeconds: 3_600,
  });
  const asAdmin = { metadata: Metadata({ authorization: `Bearer ${token}` }) };
  const admin = factory.create(StockAdminServiceDefinition, stockChannel, {
    '*': asAdmin,
  }) as StockAdminServiceClient;
  const redis = new Redis(redisServer.url, { maxRetriesPerRequest: null });
  redis.on('error', () => undefined);
  const pool = (database: string): Pool => createPool(mysqlUrl, { database, connectionsMax: 4 });
  const stockPool = pool(`${prefix}_stock`);
  const orderPools = Array.from({ length: orderShards.databases }, (_, index) =>
    pool(`${prefix}_order_${index}`),
  );

  const gateOpen = async (skuId: bigint): Promise<boolean> => {
    const layers = await admin.getStockLayers({ skuId }).catch(() => undefined);
    return layers?.gate?.loaded ?? false;
  };

  return {
    prefix,
    orders: orderProcesses,
    stocks: stockProcesses,
    edge: edgeProcess,
    order: (index = 0) => orderClients[index] as OrderServiceClient,
    stock: factory.create(StockServiceDefinition, stockChannel) as StockServiceClient,
    admin,
    redis,
    get redisServer() {
      return redisServer;
    },
    async restartRedis(args = []) {
      await redisServer.kill();
      const { port } = redisServer;
      redisServer = await startRedis({ dir: join(dir, 'redis'), port, args });
    },
    stockPool,
    orderPools,
    gateOpen,
    async createSku({ skuId, supplied, limitPerUser = 0 }) {
      await admin.createSku({
        skuId,
        title: `Thing ${skuId}`,
        unitPrice: { currencyCode: 'EUR', minorUnits: 1_999n },
        supplied,
        limitPerUser,
      });
      await eventually(() => gateOpen(skuId), `the gate of SKU ${skuId} opens`);
    },
    async close() {
      for (const channel of channels) channel.close();
      await Promise.all(
        [edgeProcess, ...orderProcesses, ...stockProcesses].map((each) => each?.process.stop()),
      );
      redis.disconnect();
      await redisServer.stop();
      await Promise.all([stockPool, ...orderPools].map((each) => each.end()));
      await dropDatabases(prefix);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function ports(count: number): Promise<[number, number][]> {
  const pairs: [number, number][] = [];
  for (let index = 0; index < count; index += 1) {
    const port = await freePort(2);
    pairs.push([port, port + 1]);
  }
  return pairs;
}

async function startService(options: {
  service: ServiceProcess['service'];
  port: number;
  metricsPort: number;
  dir: string;
  env: Readonly<Record<string, string>>;
}): Promise<ServiceProcess> {
  const { service, port, metricsPort, dir, env } = options;
  const name = service.toUpperCase();
  const logFile = join(dir, `${service}-${port}.log`);
  const spawn = async (more: Readonly<Record<string, string>>): Promise<ManagedProcess> => {
    const child = await spawnLogged({
      name: service,
      command: process.execPath,
      args: [join(repository, 'services', service, 'main.ts')],
      logFile,
      env: {
        PATH: process.env.PATH ?? '',
        ...env,
        [`SLUICE_${name}_PORT`]: String(port),
        [`SLUICE_${name}_METRICS_PORT`]: String(metricsPort),
        ...more,
      },
    });
    await waitUntilReady({
      child,
      probe: async () => (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok,
      timeoutMs: readyTimeoutMs,
    });
    return child;
  };
  let child = await spawn({});
  return {
    service,
    port,
    metricsPort,
    get process() {
      return child;
    },
    kill: () => child.kill(),
    async restart(more = {}) {
      if (child.isRunning()) await child.stop();
      child = await spawn(more);
    },
  };
}
