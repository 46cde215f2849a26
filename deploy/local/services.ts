import { join } from 'node:path';
import { repositoryDir, sharedCacheDir } from './places.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from './process.ts';
import type { ServerAddresses } from './servers.ts';
import type { LocalSettings } from './settings.ts';
import type { Supervisor } from './supervisor.ts';
import type { Terminal } from './terminal.ts';

const readyTimeoutMs = 60_000;
const probeTimeoutMs = 2_000;
/** Longer than the services' own bounds for finishing what they have begun. */
const stopGraceMs = 20_000;

/**
 * A young generation of 8 MiB: the default lets a service under load grow past 300 MiB of memory that
 * it does not need; at 8,000 orders/s this costs no CPU that shows.
 */
const nodeFlags = ['--max-semi-space-size=8'];

export type ServicesOptions = Pick<
  LocalSettings,
  | 'logsDir'
  | 'runDir'
  | 'listen'
  | 'servicePorts'
  | 'databasePrefix'
  | 'topicPrefix'
  | 'orderShards'
> & {
  addresses: ServerAddresses;
  /** Passed on to the services below what is set here. */
  env: NodeJS.ProcessEnv;
  terminal: Terminal;
  supervisor: Supervisor;
};

/** Starts stock, order and edge side by side and waits until each says that it is ready. */
export async function startServices(options: ServicesOptions): Promise<ManagedProcess[]> {
  const env = serviceEnvironment(options);
  const { stock, order, edge } = options.servicePorts;
  return await Promise.all([
    startOne('stock', stock.metrics.port, env, options),
    startOne('order', order.metrics.port, env, options),
    startOne('edge', edge.metrics.port, env, options),
  ]);
}

/** What the services, and whoever talks to them, need to know: the variables of DESIGN.md section 12, complete. */
export function serviceEnvironment(options: ServicesOptions): NodeJS.ProcessEnv {
  const { addresses, servicePorts, listen, orderShards } = options;
  const peerHost = hostToReach(listen);
  return {
    // Outside the local stack nothing sets demo mode; here somebody may still switch it off.
    SLUICE_DEMO: '1',
    SLUICE_ORDER_ADDRESS: `${peerHost}:${servicePorts.order.port}`,
    SLUICE_STOCK_ADDRESS: `${peerHost}:${servicePorts.stock.port}`,
    // Compiled code is kept between starts: that halves the time a service takes to load.
    NODE_COMPILE_CACHE: join(sharedCacheDir, 'compile-cache'),
    ...options.env,
    SLUICE_REDIS_URL: addresses.redisUrl,
    SLUICE_MYSQL_URLS: addresses.mysqlUrls,
    SLUICE_KAFKA_BROKERS: addresses.kafkaBrokers,
    SLUICE_DATABASE_PREFIX: options.databasePrefix,
    SLUICE_KAFKA_TOPIC_PREFIX: options.topicPrefix,
    SLUICE_ORDER_SHARDS: `${orderShards.databases}x${orderShards.tables}`,
    SLUICE_LISTEN: listen,
    SLUICE_EDGE_PORT: String(servicePorts.edge.port),
    SLUICE_ORDER_PORT: String(servicePorts.order.port),
    SLUICE_STOCK_PORT: String(servicePorts.stock.port),
    SLUICE_EDGE_METRICS_PORT: String(servicePorts.edge.metrics.port),
    SLUICE_ORDER_METRICS_PORT: String(servicePorts.order.metrics.port),
    SLUICE_STOCK_METRICS_PORT: String(servicePorts.stock.metrics.port),
  };
}

/** An address to bind to may be "every one"; to connect, one of them has to be named. */
export function hostToReach(listen: string): string {
  return listen === '0.0.0.0' || listen === '::' ? '127.0.0.1' : listen;
}

async function startOne(
  name: 'stock' | 'order' | 'edge',
  metricsPort: number,
  env: NodeJS.ProcessEnv,
  { logsDir, runDir, terminal, supervisor }: ServicesOptions,
): Promise<ManagedProcess> {
  const start = async (): Promise<ManagedProcess> => {
    const child = await spawnLogged({
      name,
      // The Node that runs this is the pinned one.
      command: process.execPath,
      args: [...nodeFlags, join(repositoryDir, 'services', name, 'main.ts')],
      cwd: repositoryDir,
      env,
      logFile: join(logsDir, `${name}.log`),
      recordDir: runDir,
      stopGraceMs,
      signal: supervisor.signal,
    });
    await waitUntilReady({
      child,
      probe: () => isReady(metricsPort),
      timeoutMs: readyTimeoutMs,
      signal: supervisor.signal,
    });
    return child;
  };
  return await terminal.step(
    name,
    () => supervisor.start(start()),
    (child) => `ready, pid ${child.pid}`,
  );
}

/** Metrics and probes are on loopback whatever SLUICE_LISTEN says. */
async function isReady(metricsPort: number): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${metricsPort}/readyz`, {
    signal: AbortSignal.timeout(probeTimeoutMs),
  });
  await response.body?.cancel();
  return response.status === 200;
}
