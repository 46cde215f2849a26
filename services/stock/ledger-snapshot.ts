import type { Deadline } from '../runtime/deadline.ts';
import type { Pool, PoolConnection } from '../runtime/mysql.ts';

/** A connection of its own whose transaction sees one moment of the ledger until it is closed. */
export interface Snapshot {
  readonly connection: PoolConnection;
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
  const end = (): void => pool.kill(connection);
  const timer = setTimeout(end, Math.max(0, deadline.leftMs()));
  return {
    connection,
    async take() {
      // A retried transaction begins again, and so must what it looks at.
      await connection.query('ROLLBACK');
      await connection.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
      await connection.query('START TRANSACTION WITH CONSISTENT SNAPSHOT');
    },
    async close() {
      clearTimeout(timer);
      const patience = setTimeout(end, closeMs);
      try {
        await connection.query('ROLLBACK');
        connection.release();
      } catch {
        connection.destroy();
      } finally {
        clearTimeout(patience);
      }
    },
  };
}
