import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { migrateAll } from '../../db/migrate.ts';
import type { OrderDatabase } from '../../services/order/order-database.ts';
import { createOrderMetrics } from '../../services/order/order-metrics.ts';
import { type OutboxGuard, startOutboxGuard } from '../../services/order/outbox-guard.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics, type Metrics } from '../../services/runtime/metrics.ts';
import { createPool, type Pool, query } from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { dropDatabases } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';

// What waits for publication has orders refused in time; what waits for an operator never does.

const prefix = uniquePrefix('guard');
const log = createLog('test', 'silent');
const bounds = { rowsMax: 5, ageMaxMs: 60_000 };
let pool: Pool;
let registry: Metrics;
let guard: OutboxGuard;
/** The second database. */
let isAway = false;
/** How far MySQL's clock is ahead, in milliseconds. */
let aheadMs = 0;

before(async () => {
  const orderShards = { databases: 1, tables: 1 };
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  pool = createPool(mysqlUrl, { database: `${prefix}_order_0`, connectionsMax: 6 });
});
after(async () => {
  await pool?.end();
  await dropDatabases(prefix);
});
beforeEach(async () => {
  await pool.query('DELETE FROM outbox');
  await pool.query('DELETE FROM outbox_set_aside');
  registry = createMetrics('test');
  const databases = [databaseOf(1, () => isAway), databaseOf(0, () => false)].reverse();
  guard = startOutboxGuard(databases, bounds, createOrderMetrics(registry), log);
});
afterEach(async () => {
  isAway = false;
  aheadMs = 0;
  await guard.stop();
});

function databaseOf(index: number, away: () => boolean): OrderDatabase {
  const fake: Pick<OrderDatabase, 'index' | 'now' | 'query'> = {
    index,
    now: () => new Date(Date.now() - aheadMs),
    async query(sql, deadline) {
      if (away()) throw new Refusal('DEPENDENCY_DOWN');
      return await query(pool, sql, [], { deadline });
    },
  };
  return fake as OrderDatabase;
}

async function insertRow(ageSeconds = 0): Promise<void> {
  await pool.query(
    "INSERT INTO outbox (payload, create_time) VALUES ('x', UTC_TIMESTAMP(3) - INTERVAL ? SECOND)",
    [ageSeconds],
  );
}

async function setAside(ageSeconds: number, waits: boolean): Promise<void> {
  await pool.query(
    `INSERT INTO outbox_set_aside
       (outbox_id, payload, create_time, reason, next_time, set_aside_time)
     VALUES (1, 'x', UTC_TIMESTAMP(3) - INTERVAL ? SECOND, 'why', ${waits ? 'NOW(3)' : 'NULL'}, NOW(3))`,
    [ageSeconds],
  );
}

async function metric(name: string, label: string): Promise<number> {
  const text = await registry.registry.metrics();
  const line = text.split('\n').find((one) => one.startsWith(`${name}{`) && one.includes(label));
  return Number(line?.split(' ').at(-1) ?? Number.NaN);
}

function isRefused(database = 0): boolean {
  try {
    guard.check(database);
    return false;
  } catch (error) {
    assert.ok(error instanceof Refusal && error.reason === 'OVERLOADED');
    return true;
  }
}

const refuses = (): Promise<void> => eventually(() => isRefused(), 'orders are refused');
const takes = (): Promise<void> => eventually(() => !isRefused(), 'orders are taken');

test('rows that wait too long, or too many of them, have orders refused until they are published', async () => {
  await insertRow(61);
  await refuses();
  await pool.query('DELETE FROM outbox');
  await takes();
  for (let row = 0; row < 5; row += 1) await insertRow();
  await refuses();
});

test("rows that look old only because MySQL's clock has stepped have no order refused", async () => {
  aheadMs = 600_000;
  await insertRow(61);
  const isSeen = async () => (await metric('outbox_rows', 'database="0"')) === 1;
  await eventually(isSeen, 'the row is counted');
  assert.equal(isRefused(), false);
  aheadMs = 0;
  await refuses();
});

test('what Kafka refuses for good is shown, and has no order refused, however old and many', async () => {
  for (let row = 0; row < 8; row += 1) await setAside(3_600, false);
  await eventually(
    async () => (await metric('outbox_set_aside', 'state="refused"')) === 8,
    'they are counted',
  );
  assert.equal(isRefused(), false);
  assert.deepEqual(
    [
      await metric('outbox_rows', 'database="0"'),
      await metric('outbox_age_seconds', 'database="0"'),
    ],
    [0, 0],
  );
});

test('events that wait apart for their partition count as waiting', async () => {
  await setAside(61, true);
  await refuses();
  assert.equal(await metric('outbox_set_aside', 'state="waiting"'), 1);
  await pool.query('DELETE FROM outbox_set_aside');
  await takes();
  for (let row = 0; row < 3; row += 1) await setAside(0, true);
  for (let row = 0; row < 2; row += 1) await insertRow();
  await refuses();
});

test('a database that is away does not keep the look at the others from being finished', async () => {
  isAway = true;
  await insertRow(61);
  await refuses();
  assert.equal(isRefused(1), false);
  await pool.query('DELETE FROM outbox');
  await takes();
});
