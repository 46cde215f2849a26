import { linkSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from './failure.ts';
import { identityOf, isStillThat, type ProcessIdentity } from './process-identity.ts';
import { readIdentity } from './process-record.ts';

const triesMax = 5;

export type StartLock = {
  /** Whether the lock was left behind by a process that ended without releasing it (kill -9). */
  readonly wasStale: boolean;
  release(): void;
};

/**
 * Lets one process at a time own a folder. The lock is a file naming its holder; a holder that no longer runs is
 * recognised and its lock taken over. Throws a Failure naming the running holder otherwise.
 */
export function acquireStartLock(dir: string, what: string): StartLock {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, 'start.lock');
  let wasStale = false;
  for (let i = 0; i < triesMax; i += 1) {
    if (createLockFile(file)) {
      return { wasStale, release: () => releaseIfMine(file) };
    }
    const holder = readIdentity(file);
    if (holder !== undefined && isStillThat(holder)) {
      throw new Failure(
        `${what} runs already in this checkout (pid ${holder.pid}): stop it first (Ctrl-C there, or kill ${holder.pid}).`,
      );
    }
    wasStale = true;
    removeStaleLock(file, holder);
  }
  throw new Failure(`The lock ${file} could not be taken: several processes compete for it.`);
}

/** A hard link appears with its whole content or not at all, so nobody reads a lock that is half written. */
function createLockFile(file: string): boolean {
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, JSON.stringify(identityOf(process.pid)));
  try {
    linkSync(mine, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(mine, { force: true });
  }
}

/** Of two processes that find the same stale lock, the slower one may move away the quicker one's new lock: it is put back. */
function removeStaleLock(file: string, seen: ProcessIdentity | undefined): void {
  const moved = `${file}.stale-${process.pid}`;
  try {
    renameSync(file, moved);
    const holder = readIdentity(moved);
    if (holder?.pid !== seen?.pid || holder?.startTime !== seen?.startTime) linkSync(moved, file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'EEXIST') throw error;
  } finally {
    rmSync(moved, { force: true });
  }
}

function releaseIfMine(file: string): void {
  if (readIdentity(file)?.pid === process.pid) rmSync(file, { force: true });
}
