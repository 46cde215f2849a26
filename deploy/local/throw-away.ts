import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { installMissingPackages } from './install-packages.ts';
import { prepareKafka } from './kafka-archive.ts';
import { stopLeftovers } from './leftovers.ts';
import { sharedCacheDir } from './places.ts';
import { freePort } from './port.ts';
import { isStillThat } from './process-identity.ts';
import { readIdentity, recordProcess } from './process-record.ts';
import { type ServerAddresses, startServers } from './servers.ts';
import { stopStrays } from './strays.ts';
import type { Supervisor } from './supervisor.ts';
import type { Terminal } from './terminal.ts';

/** Set for every process started on behalf of a run, so that what is left over of the run can be found. */
export const runVariable = 'SLUICE_THROW_AWAY_DIR';

const folderPattern = /^(test|bench|check)-\d+$/;

/** Removed whole when the run is over; what a run that was killed left behind is cleaned up by the next one. */
export type ThrowAwayDir = { path: string; remove(): void };

/** A folder of its own for each run, so that any number of them may go on beside each other and beside npm start. */
export async function createThrowAwayDir(
  purpose: 'test' | 'bench' | 'check',
): Promise<ThrowAwayDir> {
  await removeAbandonedDirs();
  const path = join(sharedCacheDir, `${purpose}-${process.pid}`);
  mkdirSync(join(path, 'tmp'), { recursive: true });
  recordProcess(path, 'owner', process.pid);
  return {
    path,
    remove: () => rmSync(path, { recursive: true, force: true, maxRetries: 3 }),
  };
}

export type ThrowAwayServersOptions = {
  dir: string;
  mariadb?: { bufferPoolBytes: number; logFileBytes: number };
  terminal: Terminal;
  supervisor: Supervisor;
};

/** Redis, MariaDB and Kafka on free ports with their data in the folder; installs what is missing first. */
export async function startThrowAwayServers(
  options: ThrowAwayServersOptions,
): Promise<ServerAddresses> {
  const { dir, terminal, supervisor } = options;
  const wanted = { redis: true, database: true, kafka: true };
  const logsDir = join(dir, 'logs');
  const { signal } = supervisor;
  await terminal.step('programs', async (say) => {
    await installMissingPackages({ wanted, logsDir, say, signal });
    await prepareKafka(say, signal);
  });
  const [redis, mariadb, kafka] = [await freePort(), await freePort(), await freePort(2)];
  return await startServers({
    dataDir: join(dir, 'data'),
    logsDir,
    runDir: join(dir, 'run'),
    ports: { redis, mariadb, kafka },
    ...(options.mariadb !== undefined && { mariadb: options.mariadb }),
    terminal,
    supervisor,
  });
}

async function removeAbandonedDirs(): Promise<void> {
  mkdirSync(sharedCacheDir, { recursive: true });
  for (const entry of readdirSync(sharedCacheDir)) {
    if (!folderPattern.test(entry)) continue;
    const path = join(sharedCacheDir, entry);
    const owner = readIdentity(join(path, 'owner.process.json'));
    if (owner !== undefined && isStillThat(owner)) continue;
    await stopLeftovers(join(path, 'run'), () => {});
    await stopStrays(runVariable, path, 0);
    rmSync(path, { recursive: true, force: true });
  }
}
