import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Failure, printFailure } from './failure.ts';
import { handleInterrupts } from './interrupt.ts';
import { repositoryDir } from './places.ts';
import { freePort } from './port.ts';
import { type ServicesOptions, serviceEnvironment } from './services.ts';
import { type LocalSettings, type PortSetting, readLocalSettings } from './settings.ts';
import { stopStrays } from './strays.ts';
import { createSupervisor, type Supervisor } from './supervisor.ts';
import { startSystem } from './system.ts';
import { createTerminal, type Terminal } from './terminal.ts';
import { createThrowAwayDir, runVariable, startThrowAwayServers } from './throw-away.ts';

const benchmark = join(repositoryDir, 'test/bench/main.ts');

/** Brings up a whole system on free ports, runs the benchmark against it, and removes it; answers the exit code. */
async function main(args: readonly string[]): Promise<number> {
  if (!existsSync(benchmark)) throw new Failure(`There is no benchmark: ${benchmark} is missing.`);
  if (args.includes('--help')) return await runMeasuring(args, process.env);
  // The report alone goes to stdout, so that --json can be read by a program.
  const terminal = createTerminal((text) => void process.stderr.write(text));
  const supervisor = createSupervisor();
  const interrupted = Promise.withResolvers<number>();
  const noMoreInterrupts = handleInterrupts({
    onFirst: () => interrupted.resolve(130),
    onAgain: () => {
      supervisor.killAll();
      process.exit(130);
    },
  });
  const dir = await createThrowAwayDir('bench');
  try {
    const measured = runBenchmark(args, dir.path, { terminal, supervisor });
    return await Promise.race([measured, interrupted.promise, supervisor.failed]);
  } finally {
    await supervisor.stop(() => {});
    await stopStrays(runVariable, dir.path, 0);
    dir.remove();
    noMoreInterrupts();
  }
}

async function runBenchmark(
  args: readonly string[],
  dir: string,
  { terminal, supervisor }: { terminal: Terminal; supervisor: Supervisor },
): Promise<number> {
  const addresses = await startThrowAwayServers({ dir, terminal, supervisor });
  const settings: ServicesOptions = {
    ...readLocalSettings(process.env),
    logsDir: join(dir, 'logs'),
    runDir: join(dir, 'run'),
    dataDir: join(dir, 'data'),
    mailDir: join(dir, 'mail'),
    servicePorts: await freeServicePorts(),
    mailPort: await freePortSetting(),
    addresses,
    env: { ...process.env, [runVariable]: dir },
    terminal,
    supervisor,
  };
  await startSystem(settings);
  const processes = supervisor.running();
  terminal.say('');
  return await runMeasuring(args, {
    ...serviceEnvironment(settings),
    SLUICE_EDGE_URL: `http://127.0.0.1:${settings.servicePorts.edge.port}`,
    SLUICE_BENCH_PIDS: processes.map(({ name, pid }) => `${name}:${pid}`).join(','),
  });
}

/** The measuring process itself; answers its exit code. */
async function runMeasuring(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(process.execPath, [benchmark, ...args], {
    cwd: repositoryDir,
    env,
    stdio: 'inherit',
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}

/** The peers' addresses follow from these; what the environment says about ports is for npm start. */
async function freeServicePorts(): Promise<LocalSettings['servicePorts']> {
  const service = async () => ({ ...(await freePortSetting()), metrics: await freePortSetting() });
  return {
    edge: await service(),
    order: await service(),
    stock: await service(),
    payment: await service(),
    events: { metrics: await freePortSetting() },
    simulator: await service(),
  };
}

async function freePortSetting(): Promise<PortSetting> {
  return { port: await freePort(), variable: '' };
}

let exitCode = 1;
try {
  exitCode = await main(process.argv.slice(2));
} catch (error) {
  printFailure(error);
}
process.exit(exitCode);
