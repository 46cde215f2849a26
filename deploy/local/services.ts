import { join } from 'node:path';
import { compileCacheDir, repositoryDir } from './places.ts';
import { isPortOpen } from './port.ts';
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
 * A young generation of 16 MiB: the default lets a service under load grow past 300 MiB of memory that
 * it does not need, and 8 MiB made the order service spend an eighth of its time on collecting.
 */
const nodeFlags = ['--max-semi-space-size=16'];

export type ServicesOptions = Pick<
  LocalSettings,
  | 'logsDir'
  | 'runDir'
  | 'listen'
  | 'dataDir'
  | 'servicePorts'
  | 'mailPort'
  | 'mailDir'
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

/** A program of the stack: what runs, and where it says that it is ready. */
type Program = { name: string; args: readonly string[]; isReady: () => Promise<boolean> };

/** Starts the five services, the payment simulator and the mail server side by side and waits until each says that it is ready. */
export async function startServices(options: ServicesOptions): Promise<ManagedProcess[]> {
  const env = serviceEnvironment(options);
  const programs = [...servicePrograms(options), mailProgram(options)];
  return await Promise.all(programs.map((program) => startOne(program, env, options)));
}

function servicePrograms({ servicePorts }: ServicesOptions): Program[] {
  return Object.entries(servicePorts).map(([name, { metrics }]) => ({
    name,
    args: [join(repositoryDir, 'services', name, 'main.ts')],
    // Metrics and probes are on loopback whatever SLUICE_LISTEN says.
    isReady: () => answersOk(`http://127.0.0.1:${metrics.port}/readyz`),
  }));
}

/** The mail server of a machine that has no real one. */
function mailProgram({ mailPort: { port }, mailDir }: ServicesOptions): Program {
  const main = join(repositoryDir, 'deploy/local/mail-catcher-main.ts');
  return {
    name: 'mail',
    args: [main, '--port', String(port), '--dir', mailDir],
    isReady: () => isPortOpen(port),
  };
}

/** What the services, and whoever talks to them, need to know: the variables of DESIGN.md section 12, complete. */
export function serviceEnvironment(options: ServicesOptions): NodeJS.ProcessEnv {
  const { addresses, servicePorts, mailPort, listen, orderShards } = options;
  const { edge, order, stock, payment, events, simulator } = servicePorts;
  const peerHost = hostToReach(listen);
  return {
    // Outside the local stack nothing sets demo mode; here somebody may still switch it off.
    SLUICE_DEMO: '1',
    SLUICE_ORDER_ADDRESS: `${peerHost}:${order.port}`,
    SLUICE_STOCK_ADDRESS: `${peerHost}:${stock.port}`,
    SLUICE_PAYMENT_ADDRESS: `${peerHost}:${payment.port}`,
    SLUICE_SIMULATOR_URL: `http://${peerHost}:${simulator.port}`,
    SLUICE_SIMULATOR_WEBHOOK_URL: `http://${peerHost}:${edge.port}/v1/webhooks/simulator`,
    SLUICE_SIMULATOR_DATA: join(options.dataDir, 'simulator.sqlite'),
    SLUICE_SMTP_URL: `smtp://127.0.0.1:${mailPort.port}`,
    NODE_COMPILE_CACHE: compileCacheDir,
    ...options.env,
    SLUICE_REDIS_URL: addresses.redisUrl,
    SLUICE_MYSQL_URLS: addresses.mysqlUrls,
    SLUICE_KAFKA_BROKERS: addresses.kafkaBrokers,
    SLUICE_DATABASE_PREFIX: options.databasePrefix,
    SLUICE_KAFKA_TOPIC_PREFIX: options.topicPrefix,
    SLUICE_ORDER_SHARDS: `${orderShards.databases}x${orderShards.tables}`,
    SLUICE_LISTEN: listen,
    SLUICE_EDGE_PORT: String(edge.port),
    SLUICE_ORDER_PORT: String(order.port),
    SLUICE_STOCK_PORT: String(stock.port),
    SLUICE_PAYMENT_PORT: String(payment.port),
    SLUICE_SIMULATOR_PORT: String(simulator.port),
    SLUICE_EDGE_METRICS_PORT: String(edge.metrics.port),
    SLUICE_ORDER_METRICS_PORT: String(order.metrics.port),
    SLUICE_STOCK_METRICS_PORT: String(stock.metrics.port),
    SLUICE_PAYMENT_METRICS_PORT: String(payment.metrics.port),
    SLUICE_EVENTS_METRICS_PORT: String(events.metrics.port),
    SLUICE_SIMULATOR_METRICS_PORT: String(simulator.metrics.port),
  };
}

/** An address to bind to may be "every one"; to connect, one of them has to be named. */
export function hostToReach(listen: string): string {
  return listen === '0.0.0.0' || listen === '::' ? '127.0.0.1' : listen;
}

async function startOne(
  { name, args, isReady }: Program,
  env: NodeJS.ProcessEnv,
  { logsDir, runDir, terminal, supervisor }: ServicesOptions,
): Promise<ManagedProcess> {
  const start = async (): Promise<ManagedProcess> => {
    const child = await spawnLogged({
      name,
      // The Node that runs this is the pinned one.
      command: process.execPath,
      args: [...nodeFlags, ...args],
      cwd: repositoryDir,
      env,
      logFile: join(logsDir, `${name}.log`),
      recordDir: runDir,
      stopGraceMs,
      signal: supervisor.signal,
    });
    await waitUntilReady({
      child,
      probe: isReady,
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

async function answersOk(url: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(probeTimeoutMs) });
  await response.body?.cancel();
  return response.status === 200;
}
