import { createConnection } from 'mysql2/promise';
import { mysqlUrl } from './servers.ts';

/** Rows that a transaction of the test's own keeps locked, as an operator's forgotten one would. */
export interface LockedRows {
  release(): Promise<void>;
}

/** Runs locking statements in a transaction that stays open, for as long as it takes, until it is released. */
export async function lockRows(
  database: string,
  statements: readonly string[],
  url = mysqlUrl,
): Promise<LockedRows> {
  const connection = await createConnection({ uri: url, database });
  await connection.query('START TRANSACTION');
  try {
    for (const statement of statements) await connection.query(statement);
  } catch (error) {
    connection.destroy();
    throw error;
  }
  return {
    async release() {
      await connection.query('ROLLBACK');
      await connection.end();
    },
  };
}
