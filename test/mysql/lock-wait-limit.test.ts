import assert from 'node:assert/strict';
import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createPool,
  isDatabaseLost,
  isDatabaseSlow,
  isLockWait,
  isStatementTimeout,
  lockWaitLimit,
  mysqlErrno,
  type Pool,
  serverKindOf,
  transaction,
} from '../../services/runtime/mysql.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';

const { testOnEach } = await sqlServers();
const soon = (): Deadline => Deadline.after(30_000);
const row = (id: number): string => `SELECT id, amount FROM account WHERE id = ${id} FOR UPDATE`;
const allRows = 'SELECT id, amount FROM account WHERE id IN (1, 2, 3) ORDER BY id FOR UPDATE';

/** A pool on a table of three accounts; ends with the test. */
async function withAccounts(server: SqlServer, work: (pool: Pool) => Promise<void>): Promise<void> {
  await server.sql(
    'CREATE DATABASE IF NOT EXISTS accounts',
    'DROP TABLE IF EXISTS accounts.account',
    'CREATE TABLE accounts.account (id INT PRIMARY KEY, amount BIGINT NOT NULL)',
    'INSERT INTO accounts.account VALUES (1, 100), (2, 100), (3, 100)',
  );
  const options = { database: 'accounts', connectionsMax: 4, multipleStatements: true };
  const pool = createPool(server.url, options);
  try {
    await work(pool);
  } finally {
    await pool.end();
  }
}

/** Whether somebody else could lock a row now. */
async function isFree(pool: Pool, id: number): Promise<boolean> {
  const connection = await pool.getConnection();
  try {
    await connection.query('START TRANSACTION');
    await connection.query(`${row(id)} NOWAIT`);
    return true;
  } catch (error) {
    assert.ok(isLockWait(error), String(error));
    return false;
  } finally {
    await connection.query('ROLLBACK');
    connection.release();
  }
}

testOnEach(
  'a bounded wait for a lock ends the statement and not the transaction',
  async (server) => {
    await withAccounts(server, async (pool) => {
      const holder = await pool.getConnection();
      await holder.query('START TRANSACTION');
      await holder.query(row(2));
      const options = { deadline: soon(), attempts: 1 };
      await transaction(pool, options, async (connection) => {
        const kind = serverKindOf(connection);
        assert.equal(kind, server.kind.toLowerCase());
        await connection.query('UPDATE account SET amount = 7 WHERE id = 1');
        await connection.query('SAVEPOINT earlier');
        const limited = connection.query(lockWaitLimit(kind, 50, allRows));
        await assert.rejects(limited, (error) => isStatementTimeout(error) && isLockWait(error));
        await connection.query('ROLLBACK TO SAVEPOINT earlier');
        assert.equal(await isFree(pool, 3), true, 'what lies behind the lock is not locked');
        assert.equal(await isFree(pool, 1), false, 'what was locked before stays locked');
        await holder.query('ROLLBACK');
        const [rows] = await connection.query(lockWaitLimit(kind, 5_000, allRows));
        assert.equal((rows as unknown[]).length, 3, 'without a lock in the way it reads');
      });
      holder.release();
      const [rows] = await pool.query<RowDataPacket[]>('SELECT amount FROM account WHERE id = 1');
      assert.equal(rows[0]?.amount, '7');
    });
  },
);

testOnEach(
  'the reads of a beginning may be bounded, and its end frees what they locked',
  async (server) => {
    await withAccounts(server, async (pool) => {
      const holder = await pool.getConnection();
      await holder.query('START TRANSACTION');
      await holder.query(row(2));
      const opening = (kind: 'mariadb' | 'mysql') => [lockWaitLimit(kind, 50, allRows), 'SELECT 1'];
      const options = { deadline: soon(), attempts: 1, opening };
      const read = (): Promise<number> =>
        transaction(pool, options, async (_, [accounts]) => accounts?.length ?? 0);
      await assert.rejects(read(), isStatementTimeout);
      assert.equal(await isFree(pool, 1), true);
      await holder.query('ROLLBACK');
      holder.release();
      assert.equal(await read(), 3);
    });
  },
);

testOnEach(
  'locks in the way are answers: neither a lost database nor a slow one',
  async (server) => {
    await withAccounts(server, async (pool) => {
      const holder = await pool.getConnection();
      await holder.query('START TRANSACTION');
      await holder.query(row(2));
      const options = { deadline: soon(), attempts: 1 };
      const refused = async (statement: string): Promise<number | undefined> => {
        const error = await transaction(pool, options, (connection) =>
          connection.query(statement),
        ).then(
          () => assert.fail('the lock was not in the way'),
          (reason: unknown) => reason,
        );
        assert.ok(
          isLockWait(error) && !isDatabaseLost(error) && !isDatabaseSlow(error),
          String(error),
        );
        return mysqlErrno(error);
      };
      assert.equal(await refused('UPDATE account SET amount = 1 WHERE id = 2'), 1205);
      assert.equal(await refused(`${row(2)} NOWAIT`), server.kind === 'MySQL' ? 3572 : 1205);
      await holder.query('ROLLBACK');
      holder.release();
    });
  },
);
