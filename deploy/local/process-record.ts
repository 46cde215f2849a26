import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { identityOf, isStillThat, type ProcessIdentity } from './process-identity.ts';

const suffix = '.process.json';

/** Notes which process runs under this name, so that a later run can find it if nobody could stop it. */
export function recordProcess(dir: string, name: string, pid: number): void {
  const identity = identityOf(pid);
  // It is gone already: whoever waits for it will say so.
  if (identity === undefined) return;
  mkdirSync(dir, { recursive: true });
  const file = recordFile(dir, name);
  writeFileSync(`${file}.partial`, JSON.stringify(identity));
  renameSync(`${file}.partial`, file);
}

export function forgetProcess(dir: string, name: string): void {
  rmSync(recordFile(dir, name), { force: true });
}

/** What is recorded in the folder and still runs; records of ended processes are removed. */
export function recordedProcesses(dir: string): { name: string; identity: ProcessIdentity }[] {
  const running: { name: string; identity: ProcessIdentity }[] = [];
  for (const entry of readdirOrEmpty(dir)) {
    if (!entry.endsWith(suffix)) continue;
    const name = entry.slice(0, -suffix.length);
    const identity = readIdentity(join(dir, entry));
    if (identity !== undefined && isStillThat(identity)) running.push({ name, identity });
    else forgetProcess(dir, name);
  }
  return running;
}

/** Undefined when the file is absent or was never finished. */
export function readIdentity(file: string): ProcessIdentity | undefined {
  try {
    const value = JSON.parse(readFileSync(file, 'utf8')) as Partial<ProcessIdentity>;
    const { pid, commandLine, startTime } = value;
    if (!Number.isInteger(pid) || typeof commandLine !== 'string') return undefined;
    return { pid: pid as number, commandLine, startTime: startTime ?? '' };
  } catch {
    return undefined;
  }
}

function recordFile(dir: string, name: string): string {
  return join(dir, `${name}${suffix}`);
}

function readdirOrEmpty(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
