import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startKafka } from './kafka.ts';
import { startMariaDb } from './mariadb.ts';
import type { ManagedProcess } from './process.ts';
import { startRedis } from './redis.ts';
import type { Supervisor } from './supervisor.ts';
import type { Terminal } from './terminal.ts';

/** Where the three servers are, in the form the services' variables want. */
export type ServerAddresses = { redisUrl: string; mysqlUrls: string; kafkaBrokers: string };

export type ServersOptions = {
  dataDir: string;
  logsDir: string;
  runDir: string;
  /** A server without a port here is not started; its address comes from `existing`. */
  ports: { redis?: number; mariadb?: number; kafka?: number };
  existing?: Partial<ServerAddresses>;
  /** Buffer pool and redo log of MariaDB; see mariadb.ts for the defaults. */
  mariadb?: { bufferPoolBytes: number; logFileBytes: number };
  terminal: Terminal;
  supervisor: Supervisor;
};

/** Starts the wanted servers side by side and hands them to the supervisor; resolves when all of them answer. */
export async function startServers(options: ServersOptions): Promise<ServerAddresses> {
  const { dataDir, logsDir, ports, terminal, supervisor } = options;
  mkdirSync(dataDir, { recursive: true });
  const addresses: Partial<ServerAddresses> = { ...options.existing };
  const common = (name: string) => ({
    dir: join(dataDir, name),
    logFile: join(logsDir, `${name}.log`),
    recordDir: options.runDir,
    signal: supervisor.signal,
  });
  const start = async <S extends ManagedProcess>(
    label: string,
    work: () => Promise<S>,
    address: (server: S) => string,
  ): Promise<string> =>
    address(await terminal.step(label, () => supervisor.start(work()), address));
  const { redis, mariadb, kafka } = ports;
  await allOrFirstFailure([
    redis !== undefined &&
      start(
        'Redis',
        () => startRedis({ ...common('redis'), port: redis }),
        (server) => server.url,
      ).then((url) => {
        addresses.redisUrl = url;
      }),
    mariadb !== undefined &&
      start(
        'MariaDB',
        () => startMariaDb({ ...common('mariadb'), ...options.mariadb, port: mariadb }),
        (server) => server.url,
      ).then((url) => {
        addresses.mysqlUrls = url;
      }),
    kafka !== undefined &&
      start(
        'Kafka',
        () => startKafka({ ...common('kafka'), port: kafka }),
        (server) => server.brokers,
      ).then((brokers) => {
        addresses.kafkaBrokers = brokers;
      }),
  ]);
  return addresses as ServerAddresses;
}

async function allOrFirstFailure(work: (Promise<void> | false)[]): Promise<void> {
  await Promise.all(work.filter((each) => each !== false));
}
