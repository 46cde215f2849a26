import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import { migrateAll } from '../../db/migrate.ts';
import { freePort } from '../../deploy/local/port.ts';
import { type RedisServer, startRedis } from '../../deploy/local/redis.ts';
import {
  type OrderServiceClient,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import {
  type PaymentServiceClient,
  PaymentServiceDefinition,
} from '../../gen/sluice/payment/v1/payment_service.ts';
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
import {
  freePorts,
  type Ports,
  type ServiceName,
  type ServiceProcess,
  startServiceProcess,
} from './service-process.ts';

/** Small tables: what is tested is that there are several of both. */
export const orderShards = { databases: 2, tables: 2 };

export interface SystemOptions {
  /** Names the databases, topics and logs. */
  readonly name: string;
  readonly orders?: number;
  readonly stocks?: number;
  readonly edge?: boolean;
  /** Payment processes; with them come the simulator, and the edge that takes its webhooks. */
  readonly payments?: number;
  /** Whether the events process runs, with the mail server it sends to. */
  readonly events?: boolean;
  /** More variables for every service. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Real processes of the services on databases, topics and a Redis server of their own. */
export interface System {
  readonly prefix: string;
  readonly orders: readonly ServiceProcess[];
  readonly stocks: readonly ServiceProcess[];
  readonly edge: ServiceProcess | undefined;
  readonly payments: readonly ServiceProcess[];
  readonly events: ServiceProcess | undefined;
  readonly simulator: ServiceProcess | undefined;
  /** Every process of the services, whatever it is. */
  readonly processes: readonly ServiceProcess[];
  /** The variables that all of them run with. */
  readonly env: Readonly<Record<string, string>>;
  /** Where the mail server keeps what arrived. */
  readonly mailDir: string;
  /** A client of the i-th order process; errors are `RichClientError`. */
  order(index?: number): OrderServiceClient;
  /** A client of the i-th payment process, with the role of operators. */
  payment(index?: number): PaymentServiceClient;
  readonly stock: StockServiceClient;
  readonly admin: StockAdminServiceClient;
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
  const { name, orders = 1, stocks = 1, payments = 0, events = false } = options;
  const { edge = payments > 0 } = options;
  const prefix = uniquePrefix(name);
  const dir = mkdtempSync(join(tmpdir(), 'sluice-'));
  const log = createLog('test', 'silent');
  let redisServer = await startRedis({ dir: join(dir, 'redis'), port: await freePort() });
  const topicPrefix = `${prefix}.`;
  await Promise.all([
    migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards }),
    createEventTopics(kafkaBrokers.split(','), topicPrefix, log),
  ]);
  const stockPorts = await freePorts(stocks);
  const orderPorts = await freePorts(orders);
  const paymentPorts = await freePorts(payments);
  const [edgePorts, simulatorPorts, eventsPorts, mailPorts] = (await freePorts(4)) as [
    ...[Ports, Ports, Ports, Ports],
  ];
  const addresses = (list: readonly Ports[]): string =>
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
    ...(payments > 0 && { SLUICE_PAYMENT_ADDRESS: addresses(paymentPorts) }),
    SLUICE_SIMULATOR_URL: `http://127.0.0.1:${simulatorPorts[0]}`,
    SLUICE_SIMULATOR_WEBHOOK_URL: `http://127.0.0.1:${edgePorts[0]}/v1/webhooks/simulator`,
    SLUICE_SIMULATOR_DATA: join(dir, 'simulator.sqlite'),
    SLUICE_SMTP_URL: `smtp://127.0.0.1:${mailPorts[0]}`,
    SLUICE_DEMO: '1',
    ...options.env,
  };
  const start = (service: ServiceName, ports: Ports): Promise<ServiceProcess> =>
    startServiceProcess({ service, ports, dir, env });
  const startIf = (wanted: boolean, service: ServiceName, ports: Ports) =>
    wanted ? start(service, ports) : undefined;
  // Side by side where nobody waits for another's readiness.
  const [stockProcesses, simulator, mail] = await Promise.all([
    Promise.all(stockPorts.map((each) => start('stock', each))),
    startIf(payments > 0, 'simulator', simulatorPorts),
    startIf(events, 'mail', mailPorts),
  ]);
  const orderProcesses = await Promise.all(orderPorts.map((each) => start('order', each)));
  const [paymentProcesses, edgeProcess, eventsProcess] = await Promise.all([
    Promise.all(paymentPorts.map((each) => start('payment', each))),
    startIf(edge, 'edge', edgePorts),
    startIf(events, 'events', eventsPorts),
  ]);
  // In the order of stopping: nobody loses a peer that it still needs.
  const processes = [
    ...[edgeProcess, simulator, ...orderProcesses, ...paymentProcesses],
    ...[...stockProcesses, eventsProcess, mail],
  ].filter((each) => each !== undefined);

  const open = ([port]: Ports) =>
    createChannel(`127.0.0.1:${port}`, undefined, { 'grpc.use_local_subchannel_pool': 1 });
  const orderChannels = orderPorts.map(open);
  const paymentChannels = paymentPorts.map(open);
  const stockChannel = open(stockPorts[0] as Ports);
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  const orderClients = orderChannels.map(
    (channel) => factory.create(OrderServiceDefinition, channel) as OrderServiceClient,
  );
  const { token } = createTokens({ secret: demoTokenSecret }).sign({
    userId: 1n,
    role: 'admin',
    ttlSeconds: 3_600,
  });
  const asAdmin = { '*': { metadata: Metadata({ authorization: `Bearer ${token}` }) } };
  const paymentClients = paymentChannels.map(
    (channel) => factory.create(PaymentServiceDefinition, channel, asAdmin) as PaymentServiceClient,
  );
  const admin = factory.create(
    StockAdminServiceDefinition,
    stockChannel,
    asAdmin,
  ) as StockAdminServiceClient;
  const redis = new Redis(redisServer.url, { maxRetriesPerRequest: null });
  redis.on('error', () => undefined);
  const pool = (database: string): Pool => createPool(mysqlUrl, { database, connectionsMax: 4 });
  const stockPool = pool(`${prefix}_stock`);
  const orderPools = Array.from({ length: orderShards.databases }, (_, index) =>
    pool(`${prefix}_order_${index}`),
  );
  const paymentPool = pool(`${prefix}_payment`);
  const eventsPool = pool(`${prefix}_events`);
  const warehousePool = pool(`${prefix}_warehouse`);

  const gateOpen = async (skuId: bigint): Promise<boolean> => {
    const layers = await admin.getStockLayers({ skuId }).catch(() => undefined);
    return layers?.gate?.loaded ?? false;
  };

  return {
    prefix,
    orders: orderProcesses,
    stocks: stockProcesses,
    edge: edgeProcess,
    payments: paymentProcesses,
    events: eventsProcess,
    simulator,
    processes,
    env,
    mailDir: join(dir, 'mail'),
    order: (index = 0) => orderClients[index] as OrderServiceClient,
    payment: (index = 0) => paymentClients[index] as PaymentServiceClient,
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
    paymentPool,
    eventsPool,
    warehousePool,
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
      for (const channel of [...orderChannels, ...paymentChannels, stockChannel]) channel.close();
      await Promise.all(processes.map((each) => each.process.stop()));
      redis.disconnect();
      await redisServer.stop();
      const pools = [stockPool, ...orderPools, paymentPool, eventsPool, warehousePool];
      await Promise.all(pools.map((each) => each.end()));
      await dropDatabases(prefix);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
