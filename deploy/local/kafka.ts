import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { Failure, messageOf } from './failure.ts';
import { classArchiveFile, kafkaJars } from './kafka-jars.ts';
import { isPortOpen } from './port.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from './process.ts';
import { requireProgram } from './programs.ts';

const run = promisify(execFile);

const readyTimeoutMs = 60_000;
const formatTimeoutMs = 60_000;

export type KafkaOptions = {
  /** Topics' data, configuration and log live here; a start on the same folder continues with what was there. */
  dir: string;
  /** Clients' port; the controller listens on the one after it unless `controllerPort` says otherwise. */
  port: number;
  controllerPort?: number;
  /** Stops the start: what was begun is stopped and a Failure thrown. */
  signal?: AbortSignal | undefined;
  /** Where the pid is recorded for a clean-up after kill -9; default: `dir`. */
  recordDir?: string;
  /** Default: kafka.log in `dir`. */
  logFile?: string;
  /** More arguments for Java itself. */
  javaArgs?: readonly string[];
};

export type KafkaBroker = ManagedProcess & {
  /** host:port, as SLUICE_KAFKA_BROKERS wants it. */
  readonly brokers: string;
  readonly port: number;
};

/** Starts one Apache Kafka broker (KRaft) on loopback; resolves when it accepts clients. Needs Java 17+, and Maven once. */
export async function startKafka(options: KafkaOptions): Promise<KafkaBroker> {
  const dir = resolve(options.dir);
  const { port } = options;
  const java = requireProgram('java');
  const classPath = join(await kafkaJars(undefined, options.signal), '*');
  mkdirSync(dir, { recursive: true });
  const properties = join(dir, 'server.properties');
  writeFileSync(properties, brokerProperties(dir, port, options.controllerPort ?? port + 1));
  await format(java, classPath, dir, properties);
  const child = await spawnLogged({
    name: 'kafka',
    command: java,
    args: [
      ...['-Xms256m', '-Xmx256m', '-XX:+UseSerialGC', '-XX:MaxDirectMemorySize=64m', '-Xss512k'],
      ...['-XX:+ExitOnOutOfMemoryError', ...startUpArguments(), ...loggingArguments],
      ...(options.javaArgs ?? []),
      ...['-cp', classPath, 'kafka.Kafka', properties],
    ],
    logFile: options.logFile ?? join(dir, 'kafka.log'),
    recordDir: options.recordDir ?? dir,
    signal: options.signal,
  });
  await waitUntilReady({
    child,
    probe: () => isPortOpen(port),
    timeoutMs: readyTimeoutMs,
    signal: options.signal,
  });
  return { ...child, brokers: `127.0.0.1:${port}`, port };
}

/** Together they start the broker in a third of the time: compile quickly rather than well, and load the classes from the archive. */
function startUpArguments(): string[] {
  const archive = classArchiveFile();
  return [
    '-XX:TieredStopAtLevel=1',
    '-Xshare:auto',
    // Another Java's archive is not used; that is no reason for a warning.
    '-Xlog:disable',
    '-Xlog:all=error:stderr',
    ...(existsSync(archive) ? [`-XX:SharedArchiveFile=${archive}`] : []),
  ];
}

const loggingArguments = [
  '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
  '-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info',
  '-Dorg.slf4j.simpleLogger.showDateTime=true',
];

/** Writes the cluster id into an empty log directory; an interrupted attempt is repeated (--ignore-formatted). */
async function format(
  java: string,
  classPath: string,
  dir: string,
  properties: string,
): Promise<void> {
  if (existsSync(join(dir, 'data', 'meta.properties'))) return;
  const clusterId = randomBytes(16).toString('base64url');
  try {
    await run(
      java,
      [
        ...['-Xmx128m', ...startUpArguments(), ...loggingArguments, '-cp', classPath],
        ...['kafka.tools.StorageTool', 'format', '--ignore-formatted'],
        // Joined by "=", because one id in 64 begins with a dash and would be read as an option.
        ...[`--cluster-id=${clusterId}`, '-c', properties],
      ],
      { timeout: formatTimeoutMs },
    );
  } catch (error) {
    const output = (error as { stderr?: string }).stderr?.trim() || messageOf(error);
    throw new Failure(
      `Kafka's data directory ${join(dir, 'data')} could not be made.`,
      output.split('\n').slice(-12),
      error,
    );
  }
}

/** One node, so every internal topic has one replica; small segments and buffers, because it is for development. */
function brokerProperties(dir: string, port: number, controllerPort: number): string {
  const properties = {
    'process.roles': 'broker,controller',
    'node.id': 1,
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    'controller.listener.names': 'CONTROLLER',
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controllerPort}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'inter.broker.listener.name': 'PLAINTEXT',
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'log.dirs': join(dir, 'data'),
    'auto.create.topics.enable': false,
    'default.replication.factor': 1,
    'offsets.topic.replication.factor': 1,
    'offsets.topic.num.partitions': 4,
    'transaction.state.log.replication.factor': 1,
    'transaction.state.log.min.isr': 1,
    'transaction.state.log.num.partitions': 4,
    'share.coordinator.state.topic.replication.factor': 1,
    'share.coordinator.state.topic.min.isr': 1,
    'group.initial.rebalance.delay.ms': 0,
    // After a kill -9 the broker may register again after 3 s instead of 9 s.
    'broker.session.timeout.ms': 3_000,
    'broker.heartbeat.interval.ms': 500,
    'log.segment.bytes': 67_108_864,
    'log.cleaner.dedupe.buffer.size': 8_388_608,
  };
  return Object.entries(properties)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('');
}
