import { Redis } from 'ioredis';
import { createKafka } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, ServerUnfit } from '../../services/runtime/mysql.ts';
import { Failure, messageOf } from './failure.ts';
import type { ServerAddresses } from './servers.ts';

const reachTimeoutMs = 5_000;

/** Checks that the servers named by the environment answer; throws one Failure naming the first that does not, its variable and why. */
export async function checkExistingServers(existing: Partial<ServerAddresses>): Promise<void> {
  const { redisUrl, mysqlUrls, kafkaBrokers } = existing;
  if (redisUrl !== undefined) {
    await reach('Redis', 'SLUICE_REDIS_URL', redisUrl, () => reachRedis(redisUrl));
  }
  for (const url of mysqlUrls?.split(',') ?? []) {
    await reach('MySQL', 'SLUICE_MYSQL_URLS', url, () => reachMySql(url.trim()));
  }
  if (kafkaBrokers !== undefined) {
    await reach('Kafka', 'SLUICE_KAFKA_BROKERS', kafkaBrokers, () => reachKafka(kafkaBrokers));
  }
}

async function reach(
  server: string,
  variable: string,
  address: string,
  work: () => Promise<void>,
): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (error instanceof ServerUnfit)
      throw new Failure(`${error.message} (${variable})`, [], error);
    const shown = address.replace(/:[^:@/]*@/, ':***@');
    throw new Failure(
      `${server} at ${shown} (${variable}) cannot be used: ${messageOf(error)}. Start it, or unset ${variable} to have one started here.`,
      [],
      error,
    );
  }
}

async function reachRedis(url: string): Promise<void> {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: reachTimeoutMs,
    commandTimeout: reachTimeoutMs,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  // The rejection of the call says less ("Connection is closed") than the event before it.
  let cause: Error | undefined;
  redis.on('error', (error: Error) => {
    cause ??= error;
  });
  try {
    await redis.connect();
    await redis.ping();
  } catch (error) {
    throw cause ?? error;
  } finally {
    redis.disconnect();
  }
}

async function reachMySql(url: string): Promise<void> {
  const pool = createPool(url, { connectionsMax: 1 });
  try {
    await pool.query({ sql: 'SELECT 1', timeout: reachTimeoutMs });
  } finally {
    await pool.end();
  }
}

async function reachKafka(brokers: string): Promise<void> {
  const names = brokers.split(',').map((broker) => broker.trim());
  const admin = createKafka('sluice-local', names, createLog('local', 'silent')).admin();
  try {
    await admin.connect();
    await admin.describeCluster();
  } finally {
    await admin.disconnect();
  }
}
