import { rmSync } from 'node:fs';
import { loadDemoSale } from './demo-sale.ts';
import { demoToken } from './demo-token.ts';
import { checkExistingServers } from './existing-servers.ts';
import { printFailure } from './failure.ts';
import { readFlags } from './flags.ts';
import { installMissingPackages } from './install-packages.ts';
import { handleInterrupts } from './interrupt.ts';
import { prepareKafka } from './kafka-archive.ts';
import { stopLeftovers } from './leftovers.ts';
import { requireFreePort } from './port.ts';
import { startServers } from './servers.ts';
import { hostToReach } from './services.ts';
import { type LocalSettings, type PortSetting, readLocalSettings } from './settings.ts';
import { acquireStartLock } from './start-lock.ts';
import { createSupervisor, type Supervisor } from './supervisor.ts';
import { startSystem } from './system.ts';
import { createTerminal, type Terminal } from './terminal.ts';
import { welcome } from './welcome.ts';

const help = `npm start [-- --reset]   starts the whole of Sluice on this machine, for development and demonstration

Starts Redis, MariaDB and Kafka on loopback with data under .sluice/data, creates the schema, loads a demo sale, starts
the five services, a payment provider and a mail server to play with, and prints where they are. What is missing of the servers is installed with apt-get.
Ctrl-C stops everything. Logs are in .sluice/logs.

  --reset   throws away the data of earlier starts first (never that of servers named by a variable)
  --help    prints this

  SLUICE_REDIS_URL, SLUICE_MYSQL_URLS, SLUICE_KAFKA_BROKERS   servers to use instead of starting them
  SLUICE_LOCAL_REDIS_PORT (16379), SLUICE_LOCAL_MYSQL_PORT (13306), SLUICE_LOCAL_KAFKA_PORT (19092, and the next one)
  SLUICE_EDGE_PORT (8080), SLUICE_ORDER_PORT (50051), SLUICE_STOCK_PORT (50052), SLUICE_PAYMENT_PORT (50053)
  SLUICE_{EDGE,ORDER,STOCK,PAYMENT,EVENTS,SIMULATOR}_METRICS_PORT (9464 to 9469)
  SLUICE_SIMULATOR_PORT (8090), SLUICE_LOCAL_SMTP_PORT (1025)   the payment provider and the mail server to play with
  SLUICE_LOCAL_DIR (.sluice)   where data, logs and records of running processes are kept
`;

/** Resolves when everything has stopped again; what it answers is the exit code. */
async function main(): Promise<number> {
  const flags = readFlags(
    { reset: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
    help,
  );
  if (flags.help) {
    process.stdout.write(help);
    return 0;
  }
  const settings = readLocalSettings(process.env);
  const terminal = createTerminal();
  const lock = acquireStartLock(settings.runDir, 'npm start');
  const supervisor = createSupervisor();
  const interrupted = Promise.withResolvers<'interrupted'>();
  const noMoreInterrupts = handleInterrupts({
    onFirst: (signal) => {
      terminal.say(`\n${signal}: stopping everything; once more to stop at once.`);
      interrupted.resolve('interrupted');
    },
    onAgain: () => {
      supervisor.killAll();
      lock.release();
      process.exit(130);
    },
  });
  try {
    const running = bringUp(settings, { reset: flags.reset === true, terminal, supervisor });
    const up = await Promise.race([running, interrupted.promise, supervisor.failed]);
    if (up === 'interrupted') return 130;
    await Promise.race([interrupted.promise, supervisor.failed]);
    return 0;
  } catch (error) {
    printFailure(error);
    return 1;
  } finally {
    await supervisor.stop((line) => terminal.say(`  ${line}`));
    noMoreInterrupts();
    lock.release();
  }
}

type BringUp = { reset: boolean; terminal: Terminal; supervisor: Supervisor };

async function bringUp(settings: LocalSettings, { reset, terminal, supervisor }: BringUp) {
  const { existing, logsDir } = settings;
  await stopLeftovers(settings.runDir, terminal.say);
  if (reset) {
    rmSync(settings.dataDir, { recursive: true, force: true });
    rmSync(logsDir, { recursive: true, force: true });
    rmSync(settings.mailDir, { recursive: true, force: true });
    terminal.say('  ok reset: the data of earlier starts is gone');
  }
  const wanted = {
    redis: existing.redisUrl === undefined,
    database: existing.mysqlUrls === undefined,
    kafka: existing.kafkaBrokers === undefined,
  };
  await requireFreePorts(settings, wanted);
  await checkExistingServers(existing);
  await prepareServers(wanted, { logsDir, terminal, supervisor });
  const { redis, mariadb, kafka } = settings.serverPorts;
  const addresses = await startServers({
    ...settings,
    ports: {
      ...(wanted.redis && { redis: redis.port }),
      ...(wanted.database && { mariadb: mariadb.port }),
      ...(wanted.kafka && { kafka: kafka.port }),
    },
    existing,
    terminal,
    supervisor,
  });
  await startSystem({ ...settings, addresses, env: process.env, terminal, supervisor });
  const { edge, stock } = settings.servicePorts;
  const host = hostToReach(settings.listen);
  const edgeUrl = `http://${host}:${edge.port}`;
  await terminal.step(
    'demo sale',
    async () =>
      await loadDemoSale({
        stockAddress: `${host}:${stock.port}`,
        adminToken: await demoToken(edgeUrl, { userId: '1', role: 'admin' }),
      }),
    (created) => (created === 0 ? 'there already' : `${created} SKUs`),
  );
  terminal.say(welcome(settings, addresses, await demoToken(edgeUrl, { userId: '1001' })));
}

type WantedServers = Parameters<typeof installMissingPackages>[0]['wanted'];

/** Shared by nobody else: `npm test` takes ports that are free. */
async function requireFreePorts(settings: LocalSettings, wanted: WantedServers): Promise<void> {
  const { serverPorts, servicePorts, mailPort, listen } = settings;
  const { events, ...listening } = servicePorts;
  const required: [name: string, setting: PortSetting, host?: string][] = [];
  if (wanted.redis) required.push(['Redis', serverPorts.redis]);
  if (wanted.database) required.push(['MariaDB', serverPorts.mariadb]);
  if (wanted.kafka) {
    required.push(
      ['Kafka', serverPorts.kafka],
      ["Kafka's controller", serverPorts.kafkaController],
    );
  }
  for (const [name, ports] of Object.entries(listening)) {
    required.push([name, ports, listen], [`${name}'s metrics`, ports.metrics]);
  }
  required.push(["events' metrics", events.metrics]);
  required.push(['the mail server', mailPort]);
  for (const [name, { port, variable }, host] of required) {
    await requireFreePort({ name, port, variable, ...(host !== undefined && { host }) });
  }
}

async function prepareServers(
  wanted: WantedServers,
  { logsDir, terminal, supervisor }: { logsDir: string } & Omit<BringUp, 'reset'>,
): Promise<void> {
  const { signal } = supervisor;
  await terminal.step('programs', (say) =>
    installMissingPackages({ wanted, logsDir, say, signal }),
  );
  if (wanted.kafka) {
    await terminal.step('Kafka jars', (say) => prepareKafka(say, signal));
  }
}

let exitCode = 1;
try {
  exitCode = await main();
} catch (error) {
  printFailure(error);
}
// A start that was interrupted may still wait for an answer somewhere; everything it began has been stopped.
process.exit(exitCode);
