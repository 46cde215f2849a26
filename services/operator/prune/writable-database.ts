import { Deadline } from '../../runtime/deadline.ts';
import { type PoolConnection, transaction } from '../../runtime/mysql.ts';
import { databaseFailure } from '../could-not-look.ts';
import { openDatabasePool, serverOf } from '../stores.ts';

/** One step is small; a server that needs longer for it is in trouble, and pruning can wait. */
const stepMs = 30_000;

/** A database that rows are removed from. */
export interface WritableDatabase {
  /** Runs one bounded step in a transaction. @throws CouldNotLook, naming the database */
  step<Result>(work: (connection: PoolConnection) => Promise<Result>): Promise<Result>;
  close(): Promise<void>;
}

export function openWritableDatabase(url: string, name: string): WritableDatabase {
  const pool = openDatabasePool(url, name, { write: true });
  return {
    async step(work) {
      try {
        return await transaction(pool, { deadline: Deadline.after(stepMs) }, work);
      } catch (error) {
        throw databaseFailure(error, serverOf(url), name);
      }
    },
    close: () => pool.end(),
  };
}

/** Runs a DELETE and answers how many rows went. */
export async function remove(connection: PoolConnection, sql: string): Promise<number> {
  const [result] = await connection.query(sql);
  return (result as unknown as { affectedRows: number }).affectedRows;
}
