import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type AuditResult, audit } from '../../services/operator/audit/audit.ts';
import { promiseIds } from '../../services/operator/audit/promise.ts';
import { readConfig } from '../../services/operator/config.ts';
import { createProgress } from '../../services/operator/progress.ts';
import { type PruneResult, prune } from '../../services/operator/prune/prune.ts';
import { openStores, type Stores } from '../../services/operator/stores.ts';
import { dropDatabases } from '../support/databases.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { type Filled, fill, filledShards } from './fill.ts';
import { gatesAtRest } from './gates-at-rest.ts';
import { groupsAtRest } from './groups-at-rest.ts';

const prefix = uniquePrefix('prune');
const daySeconds = 86_400;
const orders = 2_400;
/** The n-th order of the filling: 18 and 38 are refunded, 13 cancelled, 12 has a voided payment, 19 is a fence. */
const cancelled = 13;
const config = readConfig({
  SLUICE_MYSQL_URLS: mysqlUrl,
  SLUICE_DATABASE_PREFIX: prefix,
  SLUICE_ORDER_SHARDS: `${filledShards.databases}x${filledShards.tables}`,
});
const progress = createProgress(process.stderr);
let filled: Filled;
let stores: Stores;

before(async () => {
  filled = await fill({ prefix, orders, ageSeconds: 60 * daySeconds });
  stores = await openStores(config);
});

after(async () => {
  await stores?.close();
  await filled?.close();
  await dropDatabases(prefix);
});

function run(dryRun: boolean, { closedDays = 30, refundedDays = 400 } = {}): Promise<PruneResult> {
  return prune({
    config,
    stores,
    dryRun,
    olderThanSeconds: closedDays * daySeconds,
    refundedOlderThanSeconds: refundedDays * daySeconds,
    progress,
  });
}

function look(): Promise<AuditResult> {
  const options = { skuIds: undefined, graceSeconds: 1, progress };
  return audit({
    stores,
    gates: gatesAtRest,
    groups: groupsAtRest,
    promises: promiseIds,
    ...options,
  });
}

async function count(table: string, where = 'TRUE'): Promise<number> {
  const [rows] = await filled.pool.query(
    `SELECT COUNT(*) AS n FROM ${prefix}_${table} WHERE ${where}`,
  );
  return Number((rows as { n: string }[])[0]?.n);
}

async function countOrders(table: string, where = 'TRUE'): Promise<number> {
  let sum = 0;
  for (const database of [0, 1]) {
    for (const suffix of ['00', '01']) {
      sum += await count(`order_${database}.${table}_${suffix}`, where);
    }
  }
  return sum;
}

test('what is younger stays', async () => {
  const result = await run(true, { closedDays: 61 });
  assert.deepEqual(
    Object.values(result.rows).filter((rows) => rows > 0),
    [],
  );
});

test('an order that owns stock or has an open payment stays, and the reason is told', async () => {
  const id = await filled.orderId(cancelled);
  const voided = 1_000 + 12;
  await filled.pool.query(
    `UPDATE ${prefix}_stock.stock_holds SET state = 1 WHERE order_id = ${id}`,
  );
  await filled.pool.query(
    `UPDATE ${prefix}_payment.payments SET status = 1 WHERE payment_id = ${voided}`,
  );
  const all = orders / 20;
  try {
    const { rows, kept } = await run(true);
    assert.equal(rows.orders, 6 * all - 2);
    assert.deepEqual(Object.values(kept), [1, 1]);
  } finally {
    await filled.pool.query(
      `UPDATE ${prefix}_stock.stock_holds SET state = 3 WHERE order_id = ${id}`,
    );
    await filled.pool.query(
      `UPDATE ${prefix}_payment.payments SET status = 4 WHERE payment_id = ${voided}`,
    );
  }
});

test('a dry run counts what a run then removes, sold holds and books stay, and the audit is clean afterwards', async () => {
  // Leftovers of orders that never came, whose fences went long ago; they count in no figure.
  await filled.pool.query(
    `INSERT INTO ${prefix}_stock.stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units, unit_price_minor, currency, state, create_time, update_time)
     SELECT order_id + 1, sku_id, user_id, request_id, fingerprint, units, unit_price_minor, currency, 5, create_time, update_time
     FROM ${prefix}_stock.stock_holds LIMIT 7`,
  );
  const soldBefore = await count('stock.stock_holds', 'state IN (1, 2, 4)');
  const before = await look();
  assert.equal(before.breaches, 0, JSON.stringify(before));
  const would = await run(true);
  assert.equal((await run(true)).rows.orders, would.rows.orders, 'a dry run removes nothing');
  const did = await run(false);
  assert.deepEqual(did.rows, would.rows);
  const per = orders / 20;
  // Four cancelled of one kind, one with a late payment, one fence.
  assert.equal(did.rows.orders, 6 * per);
  assert.equal(did.rows.order_history, 5 * per);
  assert.equal(did.rows.closed_orders, per);
  assert.equal(did.rows.webhook_inbox, per);
  assert.equal(did.rows.confirmation_mails, 12 * per);
  assert.equal(await countOrders('orders', 'status IN (5, 7, 8)'), 0);
  assert.equal(await countOrders('orders', 'status IN (1, 2, 3, 4)'), orders - 6 * per);
  const archived =
    (await count('order_0.archived_orders')) + (await count('order_1.archived_orders'));
  assert.equal(archived, 6 * per);
  assert.equal(await count('stock.stock_holds', 'state IN (3, 5)'), 0);
  assert.equal(await count('stock.stock_holds', 'state IN (1, 2, 4)'), soldBefore);
  assert.equal(await count('payment.payments'), 14 * per);
  const after = await look();
  assert.equal(after.breaches, 0, JSON.stringify(after, null, 1));
  const again = await run(false);
  assert.deepEqual(new Set(Object.values(again.rows)), new Set([0]));
});

test('a run that is held up names the database, and the next one finishes the work', async () => {
  const inbox = `${prefix}_payment.webhook_inbox`;
  await filled.pool.query(
    `INSERT INTO ${inbox} VALUES ('simulator', 'old', 'paid', 1, 'applied', '{}', NOW(3) - INTERVAL 60 DAY)`,
  );
  const holder = await filled.pool.getConnection();
  // It rests for longer than the server lets others; only MariaDB knows the setting.
  await holder.query('SET SESSION idle_transaction_timeout = 0').catch(() => undefined);
  await holder.query('START TRANSACTION');
  await holder.query(`SELECT * FROM ${inbox} WHERE event_id = 'old' FOR UPDATE`);
  try {
    await assert.rejects(run(false), ({ name, message }: Error) => {
      assert.equal(name, 'CouldNotLook');
      return message.includes(`failed on ${prefix}_payment: Lock wait timeout`);
    });
  } finally {
    await holder.query('ROLLBACK');
    holder.destroy();
  }
  assert.equal((await run(false)).rows.webhook_inbox, 1);
});

test('old rows of one moment and mails that were given up do not keep others from going', async () => {
  const many = 2_300;
  const numbers = `(SELECT n FROM ${prefix}_fill.orders ORDER BY n LIMIT ${orders}) a, (SELECT n AS m FROM ${prefix}_fill.orders ORDER BY n LIMIT ${Math.ceil(many / orders)}) b`;
  const id = `n + m * ${orders}`;
  const [payment, events] = [`${prefix}_payment`, `${prefix}_events`];
  await filled.pool.query(
    `INSERT INTO ${payment}.webhook_inbox (provider, event_id, event_type, effect, body, create_time)
     SELECT IF(n % 2, 'simulator', '2'), CONCAT('x', ${id}), 'paid', 'ignored', '{}', '2025-02-03 04:05:06' FROM ${numbers} WHERE ${id} < ${many}`,
  );
  await filled.pool.query(
    `INSERT INTO ${events}.confirmation_mails (order_id, user_id, payload, attempts, next_time, sent_time, create_time)
     SELECT 1 + ${id}, 1, '', 9, NULL, IF(${id} < ${many - 100}, NULL, '2025-02-03 04:05:06'), '2025-02-03 04:05:06' FROM ${numbers} WHERE ${id} < ${many}`,
  );
  const would = await run(true);
  assert.deepEqual([would.rows.webhook_inbox, would.rows.confirmation_mails], [many, 100]);
  const did = await run(false);
  assert.deepEqual(did.rows, would.rows);
  assert.equal(await count('payment.webhook_inbox', "create_time < '2025-03-01'"), 0);
  assert.equal(await count('events.confirmation_mails', "create_time < '2025-03-01'"), many - 100);
  await filled.pool.query(
    `DELETE FROM ${events}.confirmation_mails WHERE create_time < '2025-03-01'`,
  );
});

test('refunded orders go by their own age and keep their holds, and the archive has the whole order', async () => {
  const id = await filled.orderId(18);
  const did = await run(false, { refundedDays: 59 });
  assert.equal(did.rows.orders, orders / 20);
  assert.equal(did.rows.stock_holds, 0);
  const { database } = await filled.placeOf(18);
  const [rows] = await filled.pool.query(
    `SELECT body, refunded_minor FROM ${database}.archived_orders WHERE order_id = ${id}`,
  );
  const [{ body }] = rows as [{ body: string }];
  const whole = JSON.parse(body);
  assert.equal(whole.orderId, id);
  assert.equal(whole.requestId, 'r18');
  assert.equal(whole.status, 'REFUNDED');
  assert.equal(whole.items.length, 2);
  assert.deepEqual(
    whole.history.map(({ to }: { to: string }) => to),
    ['PAID', 'REFUNDING', 'REFUNDED'],
  );
  const after = await look();
  assert.equal(after.breaches, 0, JSON.stringify(after, null, 1));
});
