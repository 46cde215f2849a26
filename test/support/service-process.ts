import { join } from 'node:path';
import { compileCacheDir } from '../../deploy/local/places.ts';
import { freePort, isPortOpen } from '../../deploy/local/port.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from '../../deploy/local/process.ts';

const repository = join(import.meta.dirname, '../..');
/** A dozen processes may start at once, on few cores. */
const readyTimeoutMs = 180_000;

export type ServiceName = 'order' | 'stock' | 'edge' | 'payment' | 'events' | 'simulator' | 'mail';

/** One process of the system, which can be killed and started again on its ports. */
export interface ServiceProcess {
  readonly service: ServiceName;
  readonly port: number;
  readonly metricsPort: number;
  readonly process: ManagedProcess;
  kill(): Promise<void>;
  /** Starts it again and waits until it is ready; `env` adds to its variables. */
  restart(env?: Readonly<Record<string, string>>): Promise<void>;
  /** Starts it again to be killed at a failpoint, which it may reach before it is ready. */
  restartToDie(failpoints: string): Promise<void>;
}

/** A port to serve on and one for metrics. */
export type Ports = readonly [port: number, metricsPort: number];

/** Ports for so many processes. */
export async function freePorts(count: number): Promise<Ports[]> {
  const pairs: Ports[] = [];
  for (let index = 0; index < count; index += 1) {
    const port = await freePort(2);
    pairs.push([port, port + 1]);
  }
  return pairs;
}

export interface ServiceProcessOptions {
  readonly service: ServiceName;
  readonly ports: Ports;
  /** Where its log goes, and what the mail server keeps. */
  readonly dir: string;
  readonly env: Readonly<Record<string, string>>;
}

/** Starts a process and waits until it is ready. */
export async function startServiceProcess(options: ServiceProcessOptions): Promise<ServiceProcess> {
  const {
    service,
    ports: [port, metricsPort],
    dir,
    env,
  } = options;
  const name = service.toUpperCase();
  const spawn = async (more: Readonly<Record<string, string>>): Promise<ManagedProcess> => {
    return await spawnLogged({
      name: service,
      command: process.execPath,
      args: programOf(service, port, dir),
      logFile: join(dir, `${service}-${port}.log`),
      env: {
        PATH: process.env.PATH ?? '',
        NODE_COMPILE_CACHE: compileCacheDir,
        ...env,
        [`SLUICE_${name}_PORT`]: String(port),
        [`SLUICE_${name}_METRICS_PORT`]: String(metricsPort),
        ...more,
      },
    });
  };
  const untilReady = async (child: ManagedProcess): Promise<ManagedProcess> => {
    const probe = (): Promise<boolean> => isReady(service, port, metricsPort);
    await waitUntilReady({ child, probe, timeoutMs: readyTimeoutMs });
    return child;
  };
  let child = await untilReady(await spawn({}));
  return {
    service,
    port,
    metricsPort,
    get process() {
      return child;
    },
    kill: () => child.kill(),
    async restart(more = {}) {
      if (child.isRunning()) await child.stop();
      child = await untilReady(await spawn(more));
    },
    async restartToDie(failpoints) {
      if (child.isRunning()) await child.stop();
      child = await spawn({ SLUICE_FAILPOINTS: failpoints });
    },
  };
}

function programOf(service: ServiceName, port: number, dir: string): string[] {
  if (service !== 'mail') return [join(repository, 'services', service, 'main.ts')];
  const main = join(repository, 'deploy/local/mail-catcher-main.ts');
  return [main, '--port', String(port), '--dir', join(dir, 'mail')];
}

async function isReady(service: ServiceName, port: number, metricsPort: number): Promise<boolean> {
  if (service === 'mail') return await isPortOpen(port);
  return (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok;
}
