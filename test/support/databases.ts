import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { mysqlUrl } from './servers.ts';

/** An empty database of its own for one test file, with a way to drop it. */
export async function createScratchDatabase(
  name: string,
  connectionsMax = 10,
): Promise<{ pool: Pool; drop(): Promise<void> }> {
  await onServer(`CREATE DATABASE \`${name}\``);
  const pool = createPool(mysqlUrl, { database: name, connectionsMax });
  return {
    pool,
    async drop() {
      await pool.end();
      await onServer(`DROP DATABASE IF EXISTS \`${name}\``);
    },
  };
}

/** Drops every database whose name begins with `prefix`. */
export async function dropDatabases(prefix: string): Promise<void> {
  const pool = createPool(mysqlUrl, { connectionsMax: 1 });
  try {
    const [rows] = await pool.query('SHOW DATABASES');
    for (const { Database: name } of rows as { Database: string }[]) {
      if (name.startsWith(prefix)) await pool.query(`DROP DATABASE \`${name}\``);
    }
  } finally {
    await pool.end();
  }
}

async function onServer(statement: string): Promise<void> {
  const pool = createPool(mysqlUrl, { connectionsMax: 1 });
  try {
    await pool.query(statement);
  } finally {
    await pool.end();
  }
}
