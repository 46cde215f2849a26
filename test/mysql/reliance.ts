import assert from 'node:assert/strict';
import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  duplicateKeyErrno,
  mysqlErrno,
  type Pool,
  query,
  transaction,
} from '../../services/runtime/mysql.ts';
import type { SqlServer } from '../support/sql-servers.ts';

const soon = (): Deadline => Deadline.after(60_000);
const outOfRangeErrno = 1264;
const checkErrnos = new Set([3819, 4025]);
const oldRows = 3_000;

/** What a pool of ours may be asked on a server whose settings are odd. */
export const relianceDatabase = 'reliance';

/** Makes the tables anew, as a server whose settings are its own makes them. */
export async function prepareReliance(server: SqlServer): Promise<void> {
  const digits =
    '(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)';
  await server.sql(
    `CREATE DATABASE IF NOT EXISTS ${relianceDatabase} CHARACTER SET utf8mb4`,
    `USE ${relianceDatabase}`,
    'DROP TABLE IF EXISTS thing, pair',
    `CREATE TABLE thing (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(100) CHARACTER SET utf8mb4 NOT NULL, amount INT NOT NULL,
       UNIQUE KEY by_name (name), CONSTRAINT never_negative CHECK (amount >= 0)) ENGINE=InnoDB`,
    'CREATE TABLE pair (a INT NOT NULL, b INT NOT NULL, c INT NOT NULL, PRIMARY KEY (a, b)) ENGINE=InnoDB',
    `INSERT INTO pair SELECT n, n, n FROM (SELECT o.d + 10 * t.d + 100 * h.d + 1000 * k.d AS n
       FROM ${digits} o, ${digits} t, ${digits} h, ${digits} k) numbers WHERE n < ${oldRows}`,
    'ANALYZE TABLE pair',
  );
}

/**
 * Does with a pool what the services' statements rely on, one after the other.
 *
 * @throws AssertionError naming what does not hold
 */
export async function relyOn(pool: Pool): Promise<void> {
  await read(pool, 'DELETE FROM thing WHERE id > 0');
  await textArrivesAsItWasSent(pool);
  await transactionsBeginAndEndAsTold(pool);
  await rowsAreKeptFromNonsense(pool);
  await resultsAreWhole(pool);
  await listsOfKeysAreRanges(pool);
  await sessionIsOurs(pool);
}

/** What our sessions have and a server's own defaults may not; what has no quick effect to test is compared. */
const sessionValues: Readonly<Record<string, string>> = {
  unique_checks: 'ON',
  foreign_key_checks: 'ON',
  check_constraint_checks: 'ON',
  innodb_snapshot_isolation: 'OFF',
  sql_buffer_result: 'OFF',
  default_storage_engine: 'InnoDB',
  character_set_client: 'utf8mb4',
  character_set_connection: 'utf8mb4',
  character_set_results: 'utf8mb4',
  innodb_lock_wait_timeout: '1',
  lock_wait_timeout: '10',
  wait_timeout: '600',
  net_read_timeout: '10',
  net_write_timeout: '10',
  idle_transaction_timeout: '4',
  idle_write_transaction_timeout: '0',
  idle_readonly_transaction_timeout: '0',
  eq_range_index_dive_limit: '200',
};

async function sessionIsOurs(pool: Pool): Promise<void> {
  const rows = await read(pool, 'SHOW SESSION VARIABLES');
  const values = new Map(rows.map((row) => [row.Variable_name as string, row.Value as string]));
  for (const [name, value] of Object.entries(sessionValues)) {
    assert.equal(values.get(name) ?? value, value, name);
  }
  assert.match(values.get('optimizer_switch') ?? '', /(extended_keys|use_index_extensions)=on/);
}

async function read(pool: Pool, sql: string, params: unknown[] = []): Promise<RowDataPacket[]> {
  return await query<RowDataPacket[]>(pool, sql, params, { deadline: soon() });
}

async function textArrivesAsItWasSent(pool: Pool): Promise<void> {
  const text = `it's a \\ and a "quote", ü € 高 🎫`;
  const [row] = await read(pool, 'SELECT ? AS text, "quoted" AS quoted, \'a\\\\b\' AS slashed', [
    text,
  ]);
  assert.deepEqual(
    { ...row },
    { text, quoted: 'quoted', slashed: 'a\\b' },
    'text is escaped and encoded',
  );
  const [pipes] = await read(pool, 'SELECT 0 || 1 AS value');
  assert.equal(Number(pipes?.value), 1, '|| is OR');
  const [clock] = await read(
    pool,
    'SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW()) AS apart_s',
  );
  assert.ok(Math.abs(Number(clock?.apart_s)) <= 1, 'the session’s time is UTC');
}

async function transactionsBeginAndEndAsTold(pool: Pool): Promise<void> {
  const options = { deadline: soon(), attempts: 1 };
  const other = await pool.getConnection();
  try {
    await transaction(pool, options, async (connection) => {
      await connection.query("INSERT INTO thing (name, amount) VALUES ('one', 1)");
      const count = async (): Promise<number> => {
        const [rows] = await connection.query<RowDataPacket[]>(
          'SELECT * FROM thing FORCE INDEX (PRIMARY)',
        );
        return rows.length;
      };
      assert.equal(await count(), 1);
      await other.query("INSERT INTO thing (name, amount) VALUES ('two', 2)");
      assert.equal(await count(), 2, 'a statement sees what was committed before it');
    });
    await read(pool, "INSERT INTO thing (name, amount) VALUES ('three', 3)");
    const [seen] = await other.query<RowDataPacket[]>('SELECT * FROM thing');
    assert.equal(seen.length, 3, 'a statement by itself is committed, also after a transaction');
    // Were the connection in a transaction again, or the insert above in one, these would wait.
    await other.query("SELECT * FROM thing WHERE name IN ('one', 'two') FOR UPDATE NOWAIT");
    const failed = transaction(pool, options, async (connection) => {
      await connection.query('UPDATE thing SET amount = 9');
      throw new Error('undo');
    });
    await assert.rejects(failed, { message: 'undo' });
    const rows = await read(pool, 'SELECT amount FROM thing ORDER BY amount');
    assert.deepEqual(
      rows.map(({ amount }) => amount),
      [1, 2, 3],
      'a rollback undoes',
    );
    await transaction(pool, options, (connection) =>
      connection.query('DELETE FROM thing WHERE amount > 0'),
    );
    assert.deepEqual(await read(pool, 'SELECT * FROM thing'), [], 'a DELETE needs no key');
  } finally {
    other.release();
  }
}

async function rowsAreKeptFromNonsense(pool: Pool): Promise<void> {
  const insert = (values: string): Promise<unknown> =>
    read(pool, `INSERT INTO thing (name, amount) VALUES ${values}`);
  await assert.rejects(
    insert("('much', 3000000000)"),
    ({ errno }: { errno: number }) => errno === outOfRangeErrno,
  );
  await assert.rejects(insert("('few', -1)"), (error) => checkErrnos.has(mysqlErrno(error) ?? 0));
  await insert("('same', 1)");
  await assert.rejects(insert("('same', 2)"), (error) => mysqlErrno(error) === duplicateKeyErrno);
  const [noId] = await read(pool, 'SELECT COUNT(*) AS rows_found FROM thing WHERE id IS NULL');
  assert.equal(Number(noId?.rows_found), 0, 'IS NULL finds NULL alone');
  await read(pool, 'DELETE FROM thing');
}

async function resultsAreWhole(pool: Pool): Promise<void> {
  assert.equal((await read(pool, 'SELECT * FROM pair')).length, oldRows, 'all rows arrive');
  const [joined] = await read(
    pool,
    'SELECT COUNT(*) AS pairs FROM pair x JOIN pair y ON x.c = y.c WHERE x.a < 2000 AND y.a < 2000',
  );
  assert.equal(Number(joined?.pairs), 2_000, 'a join is not refused');
  const [long] = await read(
    pool,
    "SELECT LENGTH(GROUP_CONCAT(REPEAT('x', 10) SEPARATOR '')) AS length, 1 / 3 AS third FROM pair WHERE a < 1000",
  );
  assert.equal(Number(long?.length), 10_000);
  assert.equal(long?.third, '0.3333');
  const [slept] = await read(pool, 'SELECT SLEEP(0.15) AS ended');
  assert.equal(Number(slept?.ended), 0, 'no statement is ended but by its deadline');
}

async function listsOfKeysAreRanges(pool: Pool): Promise<void> {
  const connection = await pool.getConnection();
  try {
    for (const keys of [1, 2, 300, 1_000]) {
      const list = Array.from({ length: keys }, (_, index) => index);
      const pairs = list.map((key) => `(${key},${key})`);
      for (const where of [`a IN (${list})`, `a IN (${list}) AND (a, b) IN (${pairs})`]) {
        await connection.query('FLUSH LOCAL STATUS').catch(() => connection.query('FLUSH STATUS'));
        const sql = `SELECT a, b, c FROM pair FORCE INDEX (PRIMARY) WHERE ${where} ORDER BY a, b FOR UPDATE`;
        const [rows] = await connection.query<RowDataPacket[]>(sql);
        assert.equal(rows.length, keys);
        const [counters] = await connection.query<RowDataPacket[]>(
          "SHOW SESSION STATUS LIKE 'Handler_read%'",
        );
        const examined = counters
          .filter(({ Variable_name: name }) => /_(next|prev|rnd_next|first|last)$/.test(name))
          .reduce((sum, { Value: value }) => sum + Number(value), 0);
        assert.ok(
          examined <= 2 * keys + 2,
          `${keys} keys: ${examined} rows read by ${where.slice(0, 60)}`,
        );
      }
    }
  } finally {
    connection.release();
  }
}
