import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createPool, type Pool, query, transaction } from '../../services/runtime/mysql.ts';
import type { SqlServer } from '../support/sql-servers.ts';

/** Three accounts to write to, with 100 on each. */
export const accountsDatabase = 'accounts';
export const soon = (): Deadline => Deadline.after(60_000);

export async function prepareAccounts(server: SqlServer): Promise<void> {
  await server.sql(
    `CREATE DATABASE IF NOT EXISTS ${accountsDatabase}`,
    `DROP TABLE IF EXISTS ${accountsDatabase}.account`,
    `CREATE TABLE ${accountsDatabase}.account (id INT PRIMARY KEY, amount BIGINT NOT NULL)`,
    `INSERT INTO ${accountsDatabase}.account VALUES (1, 100), (2, 100), (3, 100)`,
  );
}

/** Gives `work` a pool and closes it afterwards. */
export async function withAccounts<Result>(
  url: string,
  connectionsMax: number,
  work: (pool: Pool) => Promise<Result>,
): Promise<Result> {
  const pool = createPool(url, {
    ...{ database: accountsDatabase, connectionsMax, multipleStatements: true },
  });
  try {
    return await work(pool);
  } finally {
    await pool.end();
  }
}

/** The same server for a user who is no administrator. */
export async function urlOfUser(server: SqlServer, more = ''): Promise<string> {
  await server.sql(
    `CREATE USER IF NOT EXISTS 'seller'@'127.0.0.1' IDENTIFIED BY 'secret'`,
    `GRANT SELECT, INSERT, UPDATE, DELETE ON ${accountsDatabase}.* TO 'seller'@'127.0.0.1'`,
    ...(more === '' ? [] : [`ALTER USER 'seller'@'127.0.0.1' ${more}`]),
  );
  return `mysql://seller:secret@127.0.0.1:${server.port}`;
}

/** Adds 1 to an account, in one transaction. */
export async function add(pool: Pool, id: number, deadline = soon()): Promise<void> {
  await transaction(pool, { deadline }, (connection) =>
    connection.query(`UPDATE account SET amount = amount + 1 WHERE id = ${id}`),
  );
}

export async function amountOf(pool: Pool, id: number): Promise<number> {
  const sql = 'SELECT amount FROM account WHERE id = ?';
  const [row] = await query<RowDataPacket[]>(pool, sql, [id], { deadline: soon() });
  return Number(row?.amount);
}

export async function connectionId(pool: Pool): Promise<number> {
  const [row] = await query<RowDataPacket[]>(pool, 'SELECT CONNECTION_ID() AS id', [], {
    deadline: soon(),
  });
  return Number(row?.id);
}
