import { readEnv, type Variables } from '../runtime/env.ts';
import { type LogLevel, logLevels } from '../runtime/log.ts';

/** Settings of the stock service. */
export interface StockConfig {
  /** Host that the servers listen on. */
  readonly listen: string;
  /** 0 lets the system choose. */
  readonly port: number;
  readonly metricsPort: number;
  /** The ledger is on the first of the servers. */
  readonly mysqlUrl: string;
  readonly databasePrefix: string;
  /** Connections to the ledger at most. */
  readonly connectionsMax: number;
  /** Seconds that a transaction may rest between two statements before the server ends it. */
  readonly transactionRestSeconds: number;
  readonly redisUrl: string;
  /** How long an answer of Redis is waited for. */
  readonly redisTimeoutMs: number;
  readonly kafkaBrokers: readonly string[];
  readonly topicPrefix: string;
  readonly orderAddresses: readonly string[];
  /** Age at which what was left behind is settled: pending entries, and holds without an order. */
  readonly settleAgeMs: number;
  /** Age at which holds are looked at again, for what an event that was lost would have told. */
  readonly recheckAgeMs: number;
  /** Rest between two recounts of the whole ledger. */
  readonly auditIntervalMs: number;
  /** Orders being reserved at once at most; more are refused as OVERLOADED. */
  readonly ordersInFlightMax: number;
  /** Calls handled at once at most. */
  readonly callsInFlightMax: number;
  readonly tokenSecret: string;
  /** Where a test breaks the process; empty means nowhere. */
  readonly failpoints: string;
  readonly logLevel: LogLevel;
}

const secondsOfWeek = { min: 1, max: 604_800 };
const recheckAfterExpirySeconds = 60;

/** Reads the settings; the only place where this service looks at its environment. @throws ConfigError */
export function readConfig(variables: Variables): Readonly<StockConfig> {
  return readEnv(variables, (env) => {
    const demo = env.boolean('SLUICE_DEMO', false);
    const mysqlUrls = env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']);
    const redisUrls = env.urls('SLUICE_REDIS_URL', 'redis', ['redis://127.0.0.1:16379']);
    // An order that nobody pays is closed at its expiry; whatever Kafka does, its units come back a minute later.
    const expirySeconds = env.integer('SLUICE_ORDER_EXPIRY_SECONDS', 900, secondsOfWeek);
    const recheckSeconds = env.integer(
      'SLUICE_STOCK_RECHECK_AGE_SECONDS',
      expirySeconds + recheckAfterExpirySeconds,
      secondsOfWeek,
    );
    return {
      listen: env.string('SLUICE_LISTEN', '127.0.0.1'),
      port: env.port('SLUICE_STOCK_PORT', 50_052),
      metricsPort: env.port('SLUICE_STOCK_METRICS_PORT', 9_466),
      mysqlUrl: mysqlUrls[0] as string,
      databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
      connectionsMax: env.integer('SLUICE_STOCK_MYSQL_CONNECTIONS', 16, { min: 8, max: 200 }),
      transactionRestSeconds: env.integer('SLUICE_MYSQL_REST_SECONDS', 4, { min: 1, max: 3_600 }),
      redisUrl: redisUrls[0] as string,
      redisTimeoutMs: env.integer('SLUICE_REDIS_TIMEOUT_MS', 300, { min: 10, max: 10_000 }),
      kafkaBrokers: env.addresses('SLUICE_KAFKA_BROKERS', ['127.0.0.1:19092']),
      topicPrefix: env.string('SLUICE_KAFKA_TOPIC_PREFIX', ''),
      orderAddresses: env.addresses('SLUICE_ORDER_ADDRESS', ['127.0.0.1:50051']),
      settleAgeMs: env.integer('SLUICE_SETTLE_AGE_MS', 15_000, { min: 1_000, max: 600_000 }),
      recheckAgeMs: recheckSeconds * 1_000,
      auditIntervalMs: env.integer('SLUICE_AUDIT_INTERVAL_MS', 15_000, {
        min: 100,
        max: 86_400_000,
      }),
      ordersInFlightMax: env.integer('SLUICE_STOCK_ORDERS', 10_000, { min: 500, max: 1_000_000 }),
      callsInFlightMax: env.integer('SLUICE_STOCK_CALLS', 4_000, { min: 1, max: 100_000 }),
      tokenSecret: env.secret('SLUICE_TOKEN_SECRET', demo),
      failpoints: env.string('SLUICE_FAILPOINTS', ''),
      logLevel: env.choice('SLUICE_LOG_LEVEL', logLevels, 'info'),
    };
  });
}
