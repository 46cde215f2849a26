import type { Connection as DriverConnection, RowDataPacket } from 'mysql2';
import { destroy, openPlainConnection, quit, type ServerAddress } from './mysql-connection.ts';

/** From the first word to the server until the last session is killed; then it is given up. */
const errandMsMax = 3_000;
/** Sessions waiting to be killed at most; those of a whole pool fit. */
const targetsMax = 256;
const attemptsMax = 3;
const againMs = 200;
const quitMsMax = 500;
const noSuchThreadErrno = 1094;

/**
 * Ends, on the server, the statements that were given up. The server would not notice a closed
 * connection before its statement ends, and until then it keeps the transaction's locks.
 */
export interface StatementKiller {
  /** Best effort: without it the locks last as long as the statement. */
  kill(lockName: string): void;
  /** Gives up what is under way. */
  stop(): Promise<void>;
}

/**
 * One errand at a time, over a connection of its own that is closed afterwards. A session is found by
 * the lock that it alone holds, so that another server, after a failover or a restart, kills nothing.
 */
export function createStatementKiller(address: ServerAddress): StatementKiller {
  const targets = new Set<string>();
  const stopped = new AbortController();
  let errand: Promise<void> | undefined;

  async function run(): Promise<void> {
    for (let attempt = 1; targets.size > 0; attempt += 1) {
      const isDone = await runErrand(address, targets, stopped.signal);
      if (stopped.signal.aborted) return;
      if (isDone) attempt = 0;
      else if (attempt >= attemptsMax) targets.clear();
      else await new Promise((resolve) => setTimeout(resolve, againMs));
    }
  }

  return {
    kill(lockName) {
      if (stopped.signal.aborted || targets.size >= targetsMax) return;
      targets.add(lockName);
      errand ??= run().finally(() => {
        errand = undefined;
      });
    },
    async stop() {
      stopped.abort();
      await errand;
    },
  };
}

/** Kills the targets and takes them off the list. @returns whether the server was asked about all of them */
async function runErrand(
  address: ServerAddress,
  targets: Set<string>,
  stopped: AbortSignal,
): Promise<boolean> {
  const giveUp = new AbortController();
  const { signal } = giveUp;
  const abort = (): void => giveUp.abort();
  const timer = setTimeout(abort, errandMsMax);
  stopped.addEventListener('abort', abort);
  let driver: DriverConnection | undefined;
  try {
    driver = await openPlainConnection(address, signal);
    for (const lockName of [...targets]) {
      await killHolder(driver, lockName, signal);
      targets.delete(lockName);
    }
    await quit(driver, quitMsMax);
    return true;
  } catch {
    if (driver !== undefined) destroy(driver);
    return false;
  } finally {
    clearTimeout(timer);
    stopped.removeEventListener('abort', abort);
  }
}

async function killHolder(
  driver: DriverConnection,
  lockName: string,
  signal: AbortSignal,
): Promise<void> {
  const [holder] = await ask(driver, `SELECT IS_USED_LOCK('${lockName}') AS id`, signal);
  // A session that has ended, or that is another server's, holds nothing here.
  if (holder?.id == null) return;
  await ask(driver, `KILL ${Number(holder.id)}`, signal).catch((error: { errno?: number }) => {
    if (error.errno !== noSuchThreadErrno) throw error;
  });
}

function ask(driver: DriverConnection, sql: string, signal: AbortSignal): Promise<RowDataPacket[]> {
  return new Promise((resolve, reject) => {
    const giveUp = (): void => reject(new Error('the server did not answer in time'));
    if (signal.aborted) giveUp();
    signal.addEventListener('abort', giveUp, { once: true });
    driver.query<RowDataPacket[]>(sql, (error, rows) => {
      signal.removeEventListener('abort', giveUp);
      if (error) reject(error);
      else resolve(rows);
    });
  });
}
