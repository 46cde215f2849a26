import { readEnv, type Variables } from '../runtime/env.ts';
import { type LogLevel, logLevels } from '../runtime/log.ts';

/** Settings of the order service. */
export interface OrderConfig {
  /** Host that the servers listen on. */
  readonly listen: string;
  /** 0 lets the system choose. */
  readonly port: number;
  readonly metricsPort: number;
  /** Order database i is on server i modulo their number. */
  readonly mysqlUrls: readonly string[];
  readonly databasePrefix: string;
  /** Order databases, and tables of each kind in one of them. */
  readonly shards: { readonly databases: number; readonly tables: number };
  /** Connections to each database at most. */
  readonly connectionsMax: number;
  /** Seconds that a transaction may rest between two statements before the server ends it. */
  readonly transactionRestSeconds: number;
  readonly kafkaBrokers: readonly string[];
  readonly topicPrefix: string;
  readonly stockAddresses: readonly string[];
  readonly paymentAddresses: readonly string[];
  /** Time from an order's creation to its expiry, in milliseconds. */
  readonly expiryMs: number;
  /** How unpaid orders are closed whose time is over. */
  readonly expiry: ExpiryConfig;
  /** Streams of WatchOrder at once at most. */
  readonly watchersMax: number;
  /** Rows in one outbox, and age of the oldest, beyond which new orders are refused. */
  readonly outboxRowsMax: number;
  readonly outboxAgeMaxMs: number;
  /** How long a worker number is leased without renewal, in milliseconds. */
  readonly workerLeaseMs: number;
  /** Calls handled at once at most. */
  readonly inFlightMax: number;
  /** Where a test breaks the process; empty means nowhere. */
  readonly failpoints: string;
  readonly logLevel: LogLevel;
}

/** The pace of expiry, in each database by itself. */
export interface ExpiryConfig {
  /** Pause between two looks for orders whose time is over, in milliseconds. */
  readonly intervalMs: number;
  /** Orders closed in one transaction at most. */
  readonly batchMax: number;
  /** Transactions after one look at most. */
  readonly batchesMax: number;
  /** Sessions that payment is asked to void at once at most, over all databases, besides those that hang. */
  readonly voidsInFlightMax: number;
}

/** Reads the settings; the only place where this service looks at its environment. @throws ConfigError */
export function readConfig(variables: Variables): Readonly<OrderConfig> {
  return readEnv(variables, (env) => ({
    listen: env.string('SLUICE_LISTEN', '127.0.0.1'),
    port: env.port('SLUICE_ORDER_PORT', 50_051),
    metricsPort: env.port('SLUICE_ORDER_METRICS_PORT', 9_465),
    mysqlUrls: env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']),
    databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
    shards: env.shards('SLUICE_ORDER_SHARDS', '2x8'),
    connectionsMax: env.integer('SLUICE_ORDER_MYSQL_CONNECTIONS', 24, { min: 22, max: 200 }),
    transactionRestSeconds: env.integer('SLUICE_MYSQL_REST_SECONDS', 4, { min: 1, max: 3_600 }),
    kafkaBrokers: env.addresses('SLUICE_KAFKA_BROKERS', ['127.0.0.1:19092']),
    topicPrefix: env.string('SLUICE_KAFKA_TOPIC_PREFIX', ''),
    stockAddresses: env.addresses('SLUICE_STOCK_ADDRESS', ['127.0.0.1:50052']),
    paymentAddresses: env.addresses('SLUICE_PAYMENT_ADDRESS', ['127.0.0.1:50053']),
    expiryMs: env.integer('SLUICE_ORDER_EXPIRY_SECONDS', 900, { min: 1, max: 604_800 }) * 1_000,
    expiry: {
      intervalMs: env.integer('SLUICE_ORDER_EXPIRY_INTERVAL_MS', 200, { min: 20, max: 60_000 }),
      batchMax: env.integer('SLUICE_ORDER_EXPIRY_BATCH', 400, { min: 1, max: 500 }),
      batchesMax: env.integer('SLUICE_ORDER_EXPIRY_BATCHES', 10, { min: 1, max: 1_000 }),
      voidsInFlightMax: env.integer('SLUICE_ORDER_EXPIRY_VOIDS', 32, { min: 1, max: 1_000 }),
    },
    watchersMax: env.integer('SLUICE_ORDER_WATCHERS', 10_000, { min: 1, max: 1_000_000 }),
    outboxRowsMax: env.integer('SLUICE_ORDER_OUTBOX_ROWS', 100_000, { min: 1, max: 100_000 }),
    outboxAgeMaxMs:
      env.integer('SLUICE_ORDER_OUTBOX_SECONDS', 600, { min: 1, max: 86_400 }) * 1_000,
    workerLeaseMs: env.integer('SLUICE_ORDER_WORKER_LEASE_MS', 10_000, {
      min: 200,
      max: 60_000,
    }),
    inFlightMax: env.integer('SLUICE_ORDER_CALLS', 4_000, { min: 1, max: 100_000 }),
    failpoints: env.string('SLUICE_FAILPOINTS', ''),
    logLevel: env.choice('SLUICE_LOG_LEVEL', logLevels, 'info'),
  }));
}
