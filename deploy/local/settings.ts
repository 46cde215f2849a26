import { resolve } from 'node:path';
import {
  ConfigError,
  type EnvReader,
  readEnv,
  type Variables,
} from '../../services/runtime/env.ts';
import { Failure } from './failure.ts';
import { repositoryDir } from './places.ts';
import type { ServerAddresses } from './servers.ts';

/** A port and the variable that changes it, for the sentence when it is in use. */
export type PortSetting = { port: number; variable: string };

export type ServicePorts = PortSetting & { metrics: PortSetting };

export type ServicePortsByName = Record<
  'edge' | 'order' | 'stock' | 'payment' | 'simulator',
  ServicePorts
> & {
  /** It serves nothing but its metrics. */
  events: { metrics: PortSetting };
};

export type LocalSettings = {
  /** Everything of this stack: data, logs and the records of running processes. */
  dir: string;
  dataDir: string;
  logsDir: string;
  runDir: string;
  /** Address that the services bind to. */
  listen: string;
  /** A server that is named here exists; the others are started. */
  existing: Partial<ServerAddresses>;
  serverPorts: {
    redis: PortSetting;
    mariadb: PortSetting;
    kafka: PortSetting;
    kafkaController: PortSetting;
  };
  servicePorts: ServicePortsByName;
  /** Where the mail server to play with listens. */
  mailPort: PortSetting;
  /** Each mail that was sent, as a file. */
  mailDir: string;
  databasePrefix: string;
  topicPrefix: string;
  orderShards: { databases: number; tables: number };
};

/** The only reader of the environment in the local stack. Throws a Failure naming every bad value. */
export function readLocalSettings(variables: Variables): Readonly<LocalSettings> {
  try {
    return readEnv(variables, readSettings);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new Failure('The environment has values that cannot be used:', error.problems, error);
  }
}

function readSettings(env: EnvReader): LocalSettings {
  const dir = resolve(repositoryDir, env.string('SLUICE_LOCAL_DIR', '.sluice'));
  const port = (variable: string, byDefault: number): PortSetting => ({
    port: env.integer(variable, byDefault, { min: 1, max: 65_535 }),
    variable,
  });
  const service = (name: string, byDefault: number, metrics: number): ServicePorts => ({
    ...port(`SLUICE_${name}_PORT`, byDefault),
    metrics: port(`SLUICE_${name}_METRICS_PORT`, metrics),
  });
  const kafka = port('SLUICE_LOCAL_KAFKA_PORT', 19_092);
  return {
    dir,
    dataDir: resolve(dir, 'data'),
    logsDir: resolve(dir, 'logs'),
    runDir: resolve(dir, 'run'),
    listen: env.string('SLUICE_LISTEN', '127.0.0.1'),
    existing: existingServers(env),
    serverPorts: {
      redis: port('SLUICE_LOCAL_REDIS_PORT', 16_379),
      mariadb: port('SLUICE_LOCAL_MYSQL_PORT', 13_306),
      kafka,
      kafkaController: { ...kafka, port: kafka.port + 1 },
    },
    servicePorts: {
      edge: service('EDGE', 8_080, 9_464),
      order: service('ORDER', 50_051, 9_465),
      stock: service('STOCK', 50_052, 9_466),
      payment: service('PAYMENT', 50_053, 9_467),
      events: { metrics: port('SLUICE_EVENTS_METRICS_PORT', 9_468) },
      simulator: service('SIMULATOR', 8_090, 9_469),
    },
    mailPort: port('SLUICE_LOCAL_SMTP_PORT', 1_025),
    mailDir: resolve(dir, 'mail'),
    databasePrefix: env.string('SLUICE_DATABASE_PREFIX', 'sluice'),
    topicPrefix: env.string('SLUICE_KAFKA_TOPIC_PREFIX', ''),
    orderShards: env.shards('SLUICE_ORDER_SHARDS', '2x8'),
  };
}

function existingServers(env: EnvReader): Partial<ServerAddresses> {
  const named = {
    redisUrl: env.string('SLUICE_REDIS_URL', ''),
    mysqlUrls: env.string('SLUICE_MYSQL_URLS', ''),
    kafkaBrokers: env.string('SLUICE_KAFKA_BROKERS', ''),
  };
  return Object.fromEntries(Object.entries(named).filter(([, address]) => address !== ''));
}
