import type { Deadline } from '../runtime/deadline.ts';
import type { Pool, PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';

/** A connection of its own whose transaction sees one moment of the ledger until it is closed. */
export interface Snapshot {
  readonly connection: PoolConnection;
  /** Looks at this moment from now on; without it each statement sees its own. */
  take(): Promise<void>;
  close(): Promise<void>;
}

/** @throws Refusal DEPENDENCY_DOWN without a connection; reads that run past the deadline fail */
export async function openSnapshot(pool: Pool, deadline: Deadline): Promise<Snapshot> {
  let connection: PoolConnection;
  try {
    connection = await pool.getConnection();
  } catch (cause) {
    throw new Refusal('DEPENDENCY_DOWN', 'No connection to the database', { cause });
  }
  // A read that hangs is ended with its connection.
  const timer = setTimeout(() => connection.destroy(), Math.max(0, deadline.leftMs()));
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
      try {
        await connection.query('ROLLBACK');
        connection.release();
      } catch {
        connection.destroy();
      }
    },
  };
}
