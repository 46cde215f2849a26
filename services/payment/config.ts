import { readEnv, type Variables } from '../runtime/env.ts';
import { type LogLevel, logLevels } from '../runtime/log.ts';
import { type ProviderSettings, readProviderSettings } from './providers/create-provider.ts';

/** Settings of the payment service. */
export interface PaymentConfig {
  /** Host that the servers listen on. */
  readonly listen: string;
  /** 0 lets the system choose. */
  readonly port: number;
  readonly metricsPort: number;
  /** Payments are on the first of the servers. */
  readonly mysqlUrl: string;
  readonly databasePrefix: string;
  readonly connectionsMax: number;
  readonly orderAddresses: readonly string[];
  readonly provider: ProviderSettings;
  /** How long a payment may stay silent before the provider is asked, in milliseconds; doubled each time. */
  readonly pollMs: number;
  /** Polls in a second at most, and refunds; a provider that takes fewer is sent fewer. */
  readonly callsPerSecond: number;
  /** Sessions opened in a second at most, and voided for buyers, and for time; a provider that takes fewer is sent fewer. */
  readonly sessionsPerSecond: number;
  /** Sessions being opened at once at most, and being voided for buyers, and for time. */
  readonly sessionsInFlightMax: number;
  /** Calls handled at once at most. */
  readonly inFlightMax: number;
  readonly tokenSecret: string;
  /** Where a test breaks the process; empty means nowhere. */
  readonly failpoints: string;
  readonly logLevel: LogLevel;
}

/** Reads the settings; the only place where this service looks at its environment. @throws ConfigError */
export function readConfig(variables: Variables): Readonly<PaymentConfig> {
  return readEnv(variables, (env) => {
    const demo = env.boolean('SLUICE_DEMO', false);
    const mysqlUrls = env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']);
    return {
      listen: env.string('SLUICE_LISTEN', '127.0.0.1'),
      port: env.port('SLUICE_PAYMENT_PORT', 50_053),
      metricsPort: env.port('SLUICE_PAYMENT_METRICS_PORT', 9_467),
      mysqlUrl: mysqlUrls[0] as string,
      databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
      connectionsMax: env.integer('SLUICE_PAYMENT_MYSQL_CONNECTIONS', 20, { min: 8, max: 200 }),
      orderAddresses: env.addresses('SLUICE_ORDER_ADDRESS', ['127.0.0.1:50051']),
      provider: readProviderSettings(env),
      pollMs: env.integer('SLUICE_PAYMENT_POLL_MS', 30_000, { min: 100, max: 300_000 }),
      callsPerSecond: env.integer('SLUICE_PAYMENT_CALLS_PER_SECOND', 50, { min: 10, max: 1_000 }),
      sessionsPerSecond: env.integer('SLUICE_PAYMENT_SESSIONS_PER_SECOND', 1_000, {
        min: 1,
        max: 10_000,
      }),
      sessionsInFlightMax: env.integer('SLUICE_PAYMENT_SESSIONS', 64, { min: 1, max: 1_000 }),
      inFlightMax: env.integer('SLUICE_PAYMENT_CALLS', 4_000, { min: 1, max: 100_000 }),
      tokenSecret: env.secret('SLUICE_TOKEN_SECRET', demo),
      failpoints: env.string('SLUICE_FAILPOINTS', ''),
      logLevel: env.choice('SLUICE_LOG_LEVEL', logLevels, 'info'),
    };
  });
}
