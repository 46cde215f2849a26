import { readEnv, type Variables } from '../runtime/env.ts';
import { type LogLevel, logLevels } from '../runtime/log.ts';

/** Settings of the events process. */
export interface EventsConfig {
  /** It serves nothing but metrics and probes; 0 lets the system choose. */
  readonly metricsPort: number;
  /** Statistics and mails are on the first of the servers. */
  readonly mysqlUrl: string;
  readonly warehouseUrl: string;
  readonly databasePrefix: string;
  /** Connections to statistics and mails at most. */
  readonly connectionsMax: number;
  readonly kafkaBrokers: readonly string[];
  readonly topicPrefix: string;
  readonly orderAddresses: readonly string[];
  /** How long an order is unchanged before it is asked for whether its event came, in milliseconds. */
  readonly catchUpAgeMs: number;
  readonly smtpUrl: string;
  readonly mailFrom: string;
  /** Address of a buyer, with `{userId}` in it. */
  readonly mailRecipient: string;
  readonly mailPerSecond: number;
  /** SMTP connections, and so mails under way, at most. */
  readonly mailConnectionsMax: number;
  /** How long the first retry of a mail waits; each further one twice as long. */
  readonly mailRetryFirstMs: number;
  /** Events that statistics and warehouse take up per second, each for itself; undefined is no limit. */
  readonly eventsPerSecondMax: number | undefined;
  /** How far this process stands back behind the others for the CPU; 0 is not at all. */
  readonly niceness: number;
  /** Where a test breaks the process; empty means nowhere. */
  readonly failpoints: string;
  readonly logLevel: LogLevel;
}

/** Reads the settings; the only place where this service looks at its environment. @throws ConfigError */
export function readConfig(variables: Variables): Readonly<EventsConfig> {
  return readEnv(variables, (env) => {
    const mysqlUrls = env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']);
    const warehouseUrls = env.urls('SLUICE_WAREHOUSE_URL', 'mysql', mysqlUrls);
    const smtpScheme = variables.SLUICE_SMTP_URL?.trim().startsWith('smtps:') ? 'smtps' : 'smtp';
    const smtpUrls = env.urls('SLUICE_SMTP_URL', smtpScheme, ['smtp://127.0.0.1:1025']);
    const perSecond = env.integer('SLUICE_EVENTS_PER_SECOND', 1_000, { min: 0, max: 1_000_000 });
    return {
      metricsPort: env.port('SLUICE_EVENTS_METRICS_PORT', 9_468),
      mysqlUrl: mysqlUrls[0] as string,
      warehouseUrl: warehouseUrls[0] as string,
      databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
      connectionsMax: env.integer('SLUICE_EVENTS_MYSQL_CONNECTIONS', 12, { min: 4, max: 200 }),
      kafkaBrokers: env.addresses('SLUICE_KAFKA_BROKERS', ['127.0.0.1:19092']),
      topicPrefix: env.string('SLUICE_KAFKA_TOPIC_PREFIX', ''),
      orderAddresses: env.addresses('SLUICE_ORDER_ADDRESS', ['127.0.0.1:50051']),
      catchUpAgeMs:
        env.integer('SLUICE_EVENTS_CATCH_UP_AGE_SECONDS', 60, { min: 1, max: 1_800 }) * 1_000,
      smtpUrl: smtpUrls[0] as string,
      mailFrom: env.matching(
        'SLUICE_MAIL_FROM',
        /^([^<>\r\n]+<[^\s<>@]+@[^\s<>@]+>|[^\s<>@]+@[^\s<>@]+)$/,
        'must be an address, or a name and <address>',
        'Sluice <orders@sluice.example>',
      ),
      mailRecipient: env.matching(
        'SLUICE_MAIL_RECIPIENT',
        /^[^\s<>@,]+@[^\s<>@,]+$/,
        'must be one address; {userId} in it stands for the buyer',
        'user-{userId}@example.com',
      ),
      mailPerSecond: env.integer('SLUICE_MAIL_PER_SECOND', 50, { min: 1, max: 10_000 }),
      mailConnectionsMax: env.integer('SLUICE_MAIL_CONNECTIONS', 5, { min: 1, max: 50 }),
      mailRetryFirstMs: env.integer('SLUICE_MAIL_RETRY_MS', 2_000, { min: 10, max: 300_000 }),
      eventsPerSecondMax: perSecond === 0 ? undefined : perSecond,
      niceness: env.integer('SLUICE_EVENTS_NICE', 10, { min: 0, max: 19 }),
      failpoints: env.string('SLUICE_FAILPOINTS', ''),
      logLevel: env.choice('SLUICE_LOG_LEVEL', logLevels, 'info'),
    };
  });
}
