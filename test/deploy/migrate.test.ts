import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { RowDataPacket } from 'mysql2/promise';
import { createConnection } from 'mysql2/promise';
import { databaseKinds } from '../../db/databases.ts';
import { migrateAll } from '../../db/migrate.ts';
import { dropDatabases } from '../support/databases.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';

const stockSql = `-- Why there are things; a comment may end with a semicolon;
CREATE TABLE IF NOT EXISTS things (
  id INT NOT NULL PRIMARY KEY -- the first column; it has no unit
);
CREATE TABLE IF NOT EXISTS runs (at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6));
INSERT INTO runs () VALUES ();
`;
const orderSql = `CREATE TABLE IF NOT EXISTS orders_{{table}} (id BIGINT NOT NULL PRIMARY KEY);
CREATE TABLE IF NOT EXISTS outbox (id BIGINT NOT NULL PRIMARY KEY);
`;

/** Migrations and databases of one test. */
function makeFixture(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-migrations-'));
  const prefix = uniquePrefix('migrate').replace('t_migrate', `m${counter++}`);
  const file = (kind: 'stock' | 'order', name: string): string =>
    join(dir, kind, 'migrations', name);
  for (const kind of databaseKinds) mkdirSync(join(dir, kind, 'migrations'), { recursive: true });
  writeFileSync(file('stock', '000001_things.sql'), stockSql);
  writeFileSync(file('order', '000001_orders.sql'), orderSql);
  t.after(async () => {
    rmSync(dir, { recursive: true, force: true });
    await dropDatabases(prefix);
  });
  const applied: string[] = [];
  const migrate = (tables = 3): Promise<void> =>
    migrateAll({
      mysqlUrls: [mysqlUrl],
      databasePrefix: prefix,
      orderShards: { databases: 2, tables },
      log: (line) => applied.push(line),
      migrationsDir: dir,
      seedSlotMap: async () => {},
    });
  return { prefix, file, applied, migrate };
}

let counter = 0;

async function query(sql: string): Promise<RowDataPacket[]> {
  const connection = await createConnection({ uri: mysqlUrl });
  try {
    const [rows] = await connection.query<RowDataPacket[]>(sql);
    return rows;
  } finally {
    await connection.end();
  }
}

async function tableNames(database: string): Promise<string[]> {
  const rows = await query(
    `SELECT table_name AS name FROM information_schema.tables WHERE table_schema = '${database}' ORDER BY 1`,
  );
  return rows.map((row) => String(row.name));
}

test('every database gets its tables, the numbered ones once per table of the shard', async (t) => {
  const { prefix, migrate } = makeFixture(t);
  await migrate();
  assert.deepEqual(await tableNames(`${prefix}_stock`), ['runs', 'schema_migrations', 'things']);
  for (const index of [0, 1]) {
    assert.deepEqual(await tableNames(`${prefix}_order_${index}`), [
      'orders_00',
      'orders_01',
      'orders_02',
      'outbox',
      'schema_migrations',
    ]);
  }
});

test('a second run applies nothing again', async (t) => {
  const { prefix, applied, migrate } = makeFixture(t);
  await migrate();
  assert.equal(applied.length, 3);
  await migrate();
  assert.equal(applied.length, 3);
  assert.equal((await query(`SELECT * FROM ${prefix}_stock.runs`)).length, 1);
});

test('a new file is applied to databases that have the earlier ones', async (t) => {
  const { prefix, file, applied, migrate } = makeFixture(t);
  await migrate();
  writeFileSync(
    file('stock', '000002_more.sql'),
    'ALTER TABLE things ADD COLUMN IF NOT EXISTS n INT;\n',
  );
  await migrate();
  assert.deepEqual(applied.slice(3), [`${prefix}_stock: 000002_more.sql`]);
});

test('a file that was changed after it was applied is an error that names it', async (t) => {
  const { prefix, file, migrate } = makeFixture(t);
  await migrate();
  appendFileSync(file('order', '000001_orders.sql'), '-- one more line\n');
  await assert.rejects(migrate(), (error: Error) => {
    assert.match(error.message, /order\/migrations\/000001_orders\.sql was changed after/);
    assert.match(error.message, new RegExp(`${prefix}_order_0`));
    return true;
  });
});

test('a file numbered before those applied is an error that names it', async (t) => {
  const { file, migrate } = makeFixture(t);
  writeFileSync(file('stock', '000003_third.sql'), 'CREATE TABLE IF NOT EXISTS third (id INT);\n');
  await migrate();
  writeFileSync(
    file('stock', '000002_second.sql'),
    'CREATE TABLE IF NOT EXISTS second (id INT);\n',
  );
  await assert.rejects(migrate(), /000002_second\.sql is numbered before/);
});

test('a failing statement names its file, and the mended file is applied', async (t) => {
  const { prefix, file, migrate } = makeFixture(t);
  const second = file('stock', '000002_more.sql');
  writeFileSync(
    second,
    'CREATE TABLE IF NOT EXISTS more (id INT);\nCREATE TABEL broken (id INT);\n',
  );
  await assert.rejects(migrate(), /000002_more\.sql failed at "CREATE TABEL broken/);
  writeFileSync(second, 'CREATE TABLE IF NOT EXISTS more (id INT);\n');
  await migrate();
  assert.ok((await tableNames(`${prefix}_stock`)).includes('more'));
});

test('runs at the same time apply each file once', async (t) => {
  const { prefix, applied, migrate } = makeFixture(t);
  await Promise.all(Array.from({ length: 6 }, () => migrate()));
  assert.equal(applied.length, 3);
  assert.equal((await query(`SELECT * FROM ${prefix}_stock.runs`)).length, 1);
});

test('more tables per database than before are made', async (t) => {
  const { prefix, migrate } = makeFixture(t);
  await migrate(1);
  await migrate(2);
  const tables = await tableNames(`${prefix}_order_1`);
  assert.deepEqual(tables.slice(0, 2), ['orders_00', 'orders_01']);
});

test('a file that is not named like a migration is an error that names it', async (t) => {
  const { file, migrate } = makeFixture(t);
  writeFileSync(file('stock', 'later.sql'), '');
  await assert.rejects(migrate(), /later\.sql is not named like 000001_orders\.sql/);
});

test('two files of one number are an error that names both', async (t) => {
  const { file, migrate } = makeFixture(t);
  writeFileSync(file('stock', '000001_again.sql'), '');
  await assert.rejects(migrate(), /000001_things\.sql has the same number as 000001_again\.sql/);
});
