import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Redis } from 'ioredis';
import type { RowDataPacket } from 'mysql2/promise';
import { createConnection } from 'mysql2/promise';
import { startMariaDb } from '../../deploy/local/mariadb.ts';
import { startMySql } from '../../deploy/local/mysql.ts';
import { whyNoMySql } from '../../deploy/local/mysql-programs.ts';
import { freePort, isPortFree } from '../../deploy/local/port.ts';
import { startRedis } from '../../deploy/local/redis.ts';

const mebibyte = 1024 * 1024;

function makeDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-servers-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

test('Redis keeps what it had through a stop, takes its port again, and never evicts', async (t) => {
  const options = { dir: makeDir(t), port: await freePort() };
  const first = await startRedis(options);
  t.after(() => first.kill());
  await withRedis(first.url, (redis) => redis.set('kept', 'yes'));
  await first.stop();
  assert.equal(await isPortFree(options.port), true);
  const second = await startRedis(options);
  t.after(() => second.kill());
  await withRedis(second.url, async (redis) => {
    assert.equal(await redis.get('kept'), 'yes');
    assert.deepEqual(await redis.config('GET', 'maxmemory-policy'), [
      'maxmemory-policy',
      'noeviction',
    ]);
  });
});

test('MariaDB comes back after kill -9 with what was committed', async (t) => {
  const options = {
    dir: makeDir(t),
    port: await freePort(),
    bufferPoolBytes: 32 * mebibyte,
    logFileBytes: 16 * mebibyte,
  };
  const first = await startMariaDb(options);
  t.after(() => first.kill());
  await query(first.url, 'CREATE DATABASE kept');
  await query(first.url, 'CREATE TABLE kept.things (id INT PRIMARY KEY)');
  await query(first.url, 'INSERT INTO kept.things VALUES (7)');
  await first.kill();
  const second = await startMariaDb(options);
  t.after(() => second.kill());
  assert.deepEqual(await query(second.url, 'SELECT id FROM kept.things'), [{ id: 7 }]);
});

const noMySql = await whyNoMySql();

test('MySQL, fetched where it is not installed, comes back after kill -9 with what was committed, and logs it', {
  ...(noMySql === undefined ? {} : { skip: noMySql }),
}, async (t) => {
  const options = { dir: makeDir(t), port: await freePort(), bufferPoolBytes: 32 * mebibyte };
  const first = await startMySql(options);
  t.after(() => first.kill());
  await query(first.url, 'CREATE DATABASE kept');
  await query(first.url, 'CREATE TABLE kept.things (id INT PRIMARY KEY)');
  await query(first.url, 'INSERT INTO kept.things VALUES (7)');
  await first.kill();
  const second = await startMySql(options);
  t.after(() => second.kill());
  assert.deepEqual(await query(second.url, 'SELECT id FROM kept.things'), [{ id: 7 }]);
  const [server] = await query(second.url, 'SELECT VERSION() AS version, @@log_bin AS logs');
  assert.equal(server?.logs, 1);
  assert.doesNotMatch(String(server?.version), /MariaDB/);
});

test('MariaDB runs with the settings that the promises rest on', async (t) => {
  const server = await startMariaDb({
    dir: makeDir(t),
    port: await freePort(),
    bufferPoolBytes: 32 * mebibyte,
    logFileBytes: 16 * mebibyte,
  });
  t.after(() => server.kill());
  const rows = await query(
    server.url,
    `SHOW VARIABLES WHERE variable_name IN ('innodb_flush_log_at_trx_commit', 'innodb_lock_wait_timeout',
       'tx_isolation', 'transaction_isolation', 'character_set_server')`,
  );
  const values = new Map(rows.map((row) => [String(row.Variable_name), String(row.Value)]));
  assert.equal(values.get('innodb_flush_log_at_trx_commit'), '1');
  assert.equal(values.get('innodb_lock_wait_timeout'), '1');
  assert.equal(values.get('character_set_server'), 'utf8mb4');
  // The name depends on the server and its version.
  const isolation = values.get('transaction_isolation') ?? values.get('tx_isolation');
  assert.equal(isolation, 'READ-COMMITTED');
});

async function withRedis(url: string, work: (redis: Redis) => Promise<unknown>): Promise<void> {
  const redis = new Redis(url);
  try {
    await work(redis);
  } finally {
    redis.disconnect();
  }
}

async function query(url: string, sql: string): Promise<RowDataPacket[]> {
  const connection = await createConnection({ uri: url });
  try {
    const [rows] = await connection.query<RowDataPacket[]>(sql);
    return rows;
  } finally {
    await connection.end();
  }
}
