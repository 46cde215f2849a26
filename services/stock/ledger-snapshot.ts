import type { Deadline } from '../runtime/deadline.ts';
import type { Pool, PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';

/** Runs statements; one that is under way at the deadline fails. */
export type SnapshotReader = Pick<PoolConnection, 'query'>;

/** A connection of its own whose transaction sees one moment of the ledger until it is closed. */
export interface Snapshot {
  readonly connection: SnapshotReader;
  /** Looks at this moment from now on; without it each statement sees its own. */
  take(): Promise<void>;
  close(): Promise<void>;
}

/** What the end of the transaction may take; a connection that does not answer is given up. */
const closeMs = 1_000;

/**
 * @throws Refusal OVERLOADED if no connection becomes free by the deadline, DEPENDENCY_DOWN if there is
 *   none to be had; reads that run past the deadline fail
 */
export async function openSnapshot(pool: Pool, deadline: Deadline): Promise<Snapshot> {
  const connection = await pool.lend(deadline);
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  // What waits on a connection that is ended here is never answered.
  const end = (): void => {
    pool.kill(connection);
    ended.reject(new Refusal('DEPENDENCY_DOWN', 'A read of the ledger ran past its deadline'));
  };
  const query = ((...args: [string]) =>
    Promise.race([connection.query(...args), ended.promise])) as SnapshotReader['query'];
  const timer = setTimeout(end, Math.max(0, deadline.leftMs()));
  return {
    connection: { query },
    async take() {
      // A retried transaction begins again, and so must what it looks at.
      await query('ROLLBACK');
      await query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
      await query('START TRANSACTION WITH CONSISTENT SNAPSHOT');
    },
    async close() {
      clearTimeout(timer);
      const patience = setTimeout(end, closeMs);
      try {
        await query('ROLLBACK');
        connection.release();
      } catch {
        connection.destroy();
      } finally {
        clearTimeout(patience);
      }
    },
  };
}
