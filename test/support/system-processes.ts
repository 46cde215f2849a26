import { join } from 'node:path';
import { kafkaBrokers } from './servers.ts';
import {
  freePorts,
  type Ports,
  type ServiceName,
  type ServiceProcess,
  startServiceProcess,
} from './service-process.ts';

/** Small tables: what is tested is that there are several of both. */
export const orderShards = { databases: 2, tables: 2 };

/** Which processes a system has. */
export interface ProcessesOptions {
  readonly orders?: number;
  readonly stocks?: number;
  readonly edge?: boolean;
  /** Payment processes; with them come the simulator, and the edge that takes its webhooks. */
  readonly payments?: number;
  /** Whether the events process runs, with the mail server it sends to. */
  readonly events?: boolean;
  /** More variables for every service. */
  readonly env?: Readonly<Record<string, string>>;
  /** More variables for one process, the n-th of its service. */
  readonly envOf?: (service: ServiceName, index: number) => Readonly<Record<string, string>>;
}

export interface SystemProcesses {
  readonly orders: readonly ServiceProcess[];
  readonly stocks: readonly ServiceProcess[];
  readonly edge: ServiceProcess | undefined;
  readonly payments: readonly ServiceProcess[];
  readonly events: ServiceProcess | undefined;
  readonly simulator: ServiceProcess | undefined;
  /** Every process, whatever it is. */
  readonly processes: readonly ServiceProcess[];
  /** The variables that all of them run with. */
  readonly env: Readonly<Record<string, string>>;
}

interface Place {
  readonly dir: string;
  readonly prefix: string;
  readonly mysqlUrls: readonly string[];
  readonly redisUrl: string;
}

/** Starts the processes of a system and waits until all are ready; if one cannot start, none is left running. */
export async function startProcesses(
  options: ProcessesOptions,
  place: Place,
): Promise<SystemProcesses> {
  const { orders = 1, stocks = 1, payments = 0, events: wantsEvents = false } = options;
  const { edge: wantsEdge = payments > 0 } = options;
  const ports = {
    stock: await freePorts(stocks),
    order: await freePorts(orders),
    payment: await freePorts(payments),
    edge: await freePorts(1),
    simulator: await freePorts(1),
    events: await freePorts(1),
    mail: await freePorts(1),
  };
  const env = { ...variables(place, ports), ...options.env };
  const started: ServiceProcess[] = [];
  const start = async (service: ServiceName, wanted = true): Promise<ServiceProcess[]> => {
    const starting = (wanted ? ports[service] : []).map(async (each, index) => {
      const own = { ...env, ...options.envOf?.(service, index) };
      const child = await startServiceProcess({ service, ports: each, dir: place.dir, env: own });
      started.push(child);
      return child;
    });
    return await allStarted(starting);
  };
  try {
    // Side by side where nobody waits for another's readiness.
    const [stockProcesses = [], [simulator] = []] = await allStarted([
      start('stock'),
      start('simulator', payments > 0),
      start('mail', wantsEvents),
    ]);
    const orderProcesses = await start('order');
    const [paymentProcesses = [], [edge] = [], [events] = []] = await allStarted([
      start('payment'),
      start('edge', wantsEdge),
      start('events', wantsEvents),
    ]);
    return {
      orders: orderProcesses,
      stocks: stockProcesses,
      payments: paymentProcesses,
      edge,
      events,
      simulator,
      processes: started,
      env,
    };
  } catch (error) {
    await Promise.all(started.map(({ process: child }) => child.stop()));
    throw error;
  }
}

/** All of them, or the first failure; but only after every one has started or failed. */
async function allStarted<Result>(starting: readonly Promise<Result>[]): Promise<Result[]> {
  await Promise.allSettled(starting);
  return await Promise.all(starting);
}

function variables(
  { dir, prefix, mysqlUrls, redisUrl }: Place,
  ports: Readonly<Record<ServiceName, readonly Ports[]>>,
): Record<string, string> {
  const addresses = (service: ServiceName): string =>
    ports[service].map(([port]) => `127.0.0.1:${port}`).join(',');
  return {
    SLUICE_MYSQL_URLS: mysqlUrls.join(','),
    SLUICE_REDIS_URL: redisUrl,
    SLUICE_KAFKA_BROKERS: kafkaBrokers,
    SLUICE_DATABASE_PREFIX: prefix,
    SLUICE_KAFKA_TOPIC_PREFIX: `${prefix}.`,
    SLUICE_ORDER_SHARDS: `${orderShards.databases}x${orderShards.tables}`,
    SLUICE_ORDER_ADDRESS: addresses('order'),
    SLUICE_STOCK_ADDRESS: addresses('stock'),
    ...(ports.payment.length > 0 && { SLUICE_PAYMENT_ADDRESS: addresses('payment') }),
    SLUICE_SIMULATOR_URL: `http://${addresses('simulator')}`,
    SLUICE_SIMULATOR_WEBHOOK_URL: `http://${addresses('edge')}/v1/webhooks/simulator`,
    SLUICE_SIMULATOR_DATA: join(dir, 'simulator.sqlite'),
    SLUICE_SMTP_URL: `smtp://${addresses('mail')}`,
    SLUICE_DEMO: '1',
  };
}
