import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createPool,
  isDatabaseLost,
  type Pool,
  query,
  transaction,
} from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';

const { testOnEach } = await sqlServers();
const database = 'frozen';
const soon = (): Deadline => Deadline.after(60_000);
/** The server's limit is 4 s, and it counts whole seconds. */
const limitMsMin = 3_000;
/** Of which most is for a machine that pauses. */
const limitMsMax = 30_000;

async function prepare(server: SqlServer): Promise<void> {
  await server.sql(
    `CREATE DATABASE IF NOT EXISTS ${database}`,
    `DROP TABLE IF EXISTS ${database}.thing`,
    `CREATE TABLE ${database}.thing (id INT PRIMARY KEY, amount INT NOT NULL)`,
    `INSERT INTO ${database}.thing VALUES (1, 0), (2, 0), (3, 0), (4, 0)`,
  );
}

const addTo = (row: number, amount = 1): string =>
  `UPDATE thing SET amount = amount + ${amount} WHERE id = ${row}`;

async function amountOf(pool: Pool, row: number): Promise<number> {
  const sql = 'SELECT amount FROM thing WHERE id = ?';
  const [found] = await query<RowDataPacket[]>(pool, sql, [row], { deadline: soon() });
  return Number(found?.amount);
}

/** Freezes a process in the middle of its transaction. @returns how long its row stayed locked, in ms */
async function freezeOne(
  server: SqlServer,
  t: TestContext,
  row: number,
  statements: 'single' | 'multiple',
): Promise<number> {
  const file = join(import.meta.dirname, 'frozen-client.ts');
  const args = [file, server.url, String(row), statements];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => String((await lines.next()).value);
  const pool = createPool(server.url, { database, connectionsMax: 2 });
  t.after(() => pool.end());
  assert.equal(await next(), 'locked');
  const frozenAt = performance.now();
  child.kill('SIGSTOP');
  await transaction(pool, { deadline: soon(), attempts: 60 }, (connection) =>
    connection.query(addTo(row, 10)),
  );
  const lockedMs = performance.now() - frozenAt;
  child.kill('SIGCONT');
  child.stdin.write('go on\n');
  assert.equal(await next(), 'DEPENDENCY_DOWN', 'what wakes up is told that nothing was done');
  await once(child, 'exit');
  assert.equal(await amountOf(pool, row), 10);
  return lockedMs;
}

testOnEach('a process that freezes in a transaction loses its locks', async (server, t) => {
  await prepare(server);
  const lockedMs = await Promise.all([
    freezeOne(server, t, 1, 'multiple'),
    freezeOne(server, t, 2, 'single'),
  ]);
  for (const ms of lockedMs) assert.ok(ms > limitMsMin && ms < limitMsMax, `locked for ${ms} ms`);
});

/** Rests in a transaction for longer than the server allows. */
async function restTooLong(pool: Pool): Promise<void> {
  const rested = transaction(pool, { deadline: soon() }, async (connection) => {
    await connection.query(addTo(3));
    await sleep(6_500);
    await connection.query(addTo(3));
  });
  await assert.rejects(rested, (error) => {
    assert.ok(error instanceof Refusal && error.reason === 'DEPENDENCY_DOWN', String(error));
    return isDatabaseLost(error);
  });
  assert.equal(await amountOf(pool, 3), 0, 'nothing was done');
}

/** Takes longer than the limit, and rests for a second at a time. */
async function workForLong(pool: Pool): Promise<void> {
  await transaction(pool, { deadline: soon() }, async (connection) => {
    for (let step = 0; step < 6; step += 1) {
      await connection.query(addTo(4));
      await sleep(1_000);
    }
  });
  assert.equal(await amountOf(pool, 4), 6);
}

/** Rests outside of transactions, right after one. */
async function restOutside(pool: Pool): Promise<void> {
  const idOf = (): Promise<string> =>
    transaction(pool, { deadline: soon() }, async (connection) => {
      const [rows] = await connection.query<RowDataPacket[]>('SELECT CONNECTION_ID() AS id');
      return String(rows[0]?.id);
    });
  const before = await idOf();
  await sleep(7_000);
  assert.equal(await idOf(), before, 'the connection is the same');
}

testOnEach(
  'the server ends transactions that rest, and neither long ones nor what rests outside',
  async (server, t) => {
    await prepare(server);
    // Sessions do not follow what the server would do to others that rest.
    await server.sql('SET GLOBAL wait_timeout = 2');
    const works = [restTooLong, workForLong, restOutside].map((work) => {
      const pool = createPool(server.url, {
        database,
        connectionsMax: 1,
        multipleStatements: true,
      });
      t.after(() => pool.end());
      return work(pool);
    });
    await Promise.all(works);
  },
);
