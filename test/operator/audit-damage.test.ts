import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type AuditResult, audit } from '../../services/operator/audit/audit.ts';
import { type PromiseId, promiseIds } from '../../services/operator/audit/promise.ts';
import { readConfig } from '../../services/operator/config.ts';
import type { Gate, GateReader } from '../../services/operator/gates.ts';
import type { GroupProgress, GroupReader } from '../../services/operator/groups.ts';
import { createProgress } from '../../services/operator/progress.ts';
import { openStores, type Stores } from '../../services/operator/stores.ts';
import { dropDatabases } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { damages, late, type Names, paid } from './damages.ts';
import { type Filled, fill, filledShards } from './fill.ts';
import { gatesAtRest } from './gates-at-rest.ts';
import { groupsAtRest } from './groups-at-rest.ts';

const prefix = uniquePrefix('audit');
let filled: Filled;
let stores: Stores;

before(async () => {
  filled = await fill({ prefix, orders: 400, ageSeconds: 300 });
  stores = await openStores(
    readConfig({
      SLUICE_MYSQL_URLS: mysqlUrl,
      SLUICE_DATABASE_PREFIX: prefix,
      SLUICE_ORDER_SHARDS: `${filledShards.databases}x${filledShards.tables}`,
    }),
  );
});

after(async () => {
  await stores?.close();
  await filled?.close();
  await dropDatabases(prefix);
});

/** Counts looks at many orders again, which begin when the first pass is over. */
let looksBegun = 0;

function look(
  promises: readonly PromiseId[] = promiseIds,
  graceSeconds = 1,
  gates: GateReader = gatesAtRest,
  groups: GroupReader = groupsAtRest,
): Promise<AuditResult> {
  looksBegun = 0;
  const progress = {
    ...createProgress(process.stderr),
    show: (text: string) => {
      if (text.includes('looked at again')) looksBegun += 1;
    },
  };
  return audit({ stores, gates, groups, promises, skuIds: undefined, graceSeconds, progress });
}

/** The kinds of flaws, each with its promise: `P1 units-differ`. */
function kindsOf({ promises }: AuditResult): string[] {
  return promises.flatMap(({ promise, kinds: found }) =>
    found.map(({ kind }) => `${promise} ${kind}`),
  );
}

test('an installation in which everything agrees is clean', async () => {
  const result = await look();
  assert.deepEqual(kindsOf(result), []);
  assert.equal(result.breaches, 0);
  const counted = Object.fromEntries(result.promises.map((each) => [each.promise, each.counted]));
  assert.equal(counted.P2?.orders, 400);
  assert.equal(counted.P1?.SKUs, 6);
});

for (const { name, flaws, sql } of damages) {
  test(`the audit names ${name}`, async () => {
    const [damage, repair] = sql(await namesOf());
    await filled.pool.query(damage);
    try {
      const result = await look();
      assert.deepEqual(kindsOf(result).sort(), [...flaws].sort(), JSON.stringify(result, null, 1));
    } finally {
      await filled.pool.query(repair);
    }
  });
}

test('after all repairs the installation is clean again', async () => {
  assert.deepEqual(kindsOf(await look()), []);
});

test('a paid order that cost nothing has nothing to give back, and is in order', async () => {
  const { t, id, stock, payment, events, warehouse } = await namesOf();
  const price = (minor: number, total: number): string =>
    `UPDATE ${t('orders', paid)} SET total_minor = ${total} WHERE order_id = ${id(paid)};
     UPDATE ${t('order_items', paid)} SET unit_price_minor = ${minor} WHERE order_id = ${id(paid)};
     UPDATE ${stock}.stock_holds SET unit_price_minor = ${minor} WHERE order_id = ${id(paid)};
     UPDATE ${payment}.payments SET amount_minor = ${total}, captured_minor = ${total} WHERE order_id = ${id(paid)};
     UPDATE ${events}.user_statistics s JOIN ${events}.counted_orders c ON c.user_id = s.user_id
       SET s.paid_minor = s.paid_minor + ${total} - c.total_minor, c.total_minor = ${total} WHERE c.order_id = ${id(paid)};
     UPDATE ${warehouse}.order_line_facts SET unit_price_minor = ${minor}, order_total_minor = ${total} WHERE order_id = ${id(paid)}`;
  await filled.pool.query(price(0, 0));
  try {
    assert.deepEqual(kindsOf(await look()), []);
  } finally {
    await filled.pool.query(price(2_000, 4_000));
  }
  assert.deepEqual(kindsOf(await look()), []);
});

test('a refused refund of a late payment is an operator’s until other refunds give back the whole', async () => {
  const { payment } = await namesOf();
  const status = (value: number): string =>
    `UPDATE ${payment}.refunds SET status = ${value} WHERE payment_id = ${1000 + late} AND request_id = 'surplus'`;
  const successor = (refundId: number, amount: string, state: number): string =>
    `INSERT INTO ${payment}.refunds (refund_id, payment_id, request_id, amount_minor, currency, status, reason, restock, whole, told, next_time, create_time, update_time)
     SELECT ${refundId}, payment_id, 'op:${refundId}', ${amount}, currency, ${state}, '', 0, 0, 0,
       IF(${state} = 1, UTC_TIMESTAMP(3) + INTERVAL 1 HOUR, NULL), create_time, update_time
     FROM ${payment}.refunds WHERE payment_id = ${1000 + late} AND request_id = 'surplus'`;
  await filled.pool.query(`${status(4)}; ${successor(9_000_001, '100', 3)}`);
  try {
    const part = await look(['P6']);
    assert.deepEqual(kindsOf(part), ['P6 refund-failed']);
    assert.deepEqual([part.breaches, part.findings], [0, 1]);
    const [example] = part.promises[0]?.kinds[0]?.examples ?? [];
    assert.match(
      example?.sentence ?? '',
      /was refused by the provider for good, and \d+ did not go back: an operator must ask for another refund/,
    );
    // One that is under way counts.
    await filled.pool.query(successor(9_000_002, 'amount_minor - 100', 1));
    assert.deepEqual(kindsOf(await look()), []);
  } finally {
    await filled.pool.query(
      `DELETE FROM ${payment}.refunds WHERE refund_id >= 9000001; ${status(3)}`,
    );
  }
});

async function namesOf(): Promise<Names> {
  const [rows] = await filled.pool.query(`SELECT n, order_id, db, tbl FROM ${prefix}_fill.orders`);
  const orders = new Map(
    (rows as { n: number; order_id: string; db: number; tbl: number }[]).map((row) => [row.n, row]),
  );
  const db = (n: number): string => `${prefix}_order_${orders.get(n)?.db}`;
  return {
    t: (table, n) => `${db(n)}.${table}_0${orders.get(n)?.tbl}`,
    id: (n) => String(orders.get(n)?.order_id),
    stock: `${prefix}_stock`,
    payment: `${prefix}_payment`,
    events: `${prefix}_events`,
    warehouse: `${prefix}_warehouse`,
    aside: `${prefix}_fill`,
    db,
  };
}

test('what is changing and then agrees is not reported; what stays is, once it is older than the grace', async () => {
  const { events, id } = await namesOf();
  const set = (version: string): string =>
    `UPDATE ${events}.counted_orders SET version = ${version}, update_time = UTC_TIMESTAMP(3) WHERE order_id = ${id(paid)}`;
  await filled.pool.query(set('1'));
  let mended: Promise<unknown> | undefined;
  try {
    // The grace is far longer than the test: it ends because the order agrees.
    const looking = look(['P7'], 600);
    await eventually(() => looksBegun > 0, 'the audit has looked');
    mended = filled.pool.query(set('2'));
    const result = await looking;
    assert.deepEqual(kindsOf(result), []);
    assert(result.looksAgain > 0, 'it was looked at again');
    await filled.pool.query(set('1'));
    assert.deepEqual(kindsOf(await look(['P7'], 1)), ['P7 statistics-behind']);
  } finally {
    await mended;
    await filled.pool.query(set('2'));
  }
});

test('a gate that differs or is closed is named; one whose figures move is not at rest', async () => {
  const gateOf = (gate: Partial<Gate>): GateReader => ({
    read: async (skuId) => ({ ...(await gatesAtRest.read(skuId)), ...gate }),
    close() {},
  });
  const differing = await look(['I5'], 1, gateOf({ available: 3n }));
  assert.deepEqual(kindsOf(differing), ['I5 gate-differs']);
  assert.equal(differing.breaches, 6);
  const closed = await look(['I5'], 1, gateOf({ loaded: false, state: 'closing' }));
  assert.deepEqual(kindsOf(closed), ['I5 gate-not-open']);
  const waiting = await look(['P4'], 1, gateOf({ oldestPendingAgeMs: 61_000n }));
  assert.deepEqual(kindsOf(waiting), ['P4 pending-too-long']);
  let looks = 0n;
  const moving = await look(['I5'], 600, {
    async read(skuId) {
      looks += 1n;
      return { ...(await gatesAtRest.read(skuId)), available: looks };
    },
    close() {},
  });
  assert.deepEqual(kindsOf(moving), []);
  assert.equal(moving.promises[0]?.counted['gates in motion'], 6);
});

test('an order whose newest event its group has before it is not judged; an older damage is named', async () => {
  const { events, id } = await namesOf();
  const behind = (ageSeconds: number): GroupReader => ({
    read: async () =>
      (await groupsAtRest.read()).map(
        (each): GroupProgress => ({
          ...each,
          eventsBehind: 1_234n,
          consumedAgeSeconds: ageSeconds,
        }),
      ),
    close: async () => undefined,
  });
  const set = (version: string): string =>
    `UPDATE ${events}.counted_orders SET version = ${version} WHERE order_id = ${id(paid)}`;
  await filled.pool.query(set('1'));
  try {
    // The orders were made and last changed 300 s ago.
    const unjudged = await look(['P7'], 1, gatesAtRest, behind(3_600));
    assert.deepEqual(kindsOf(unjudged), ['P7 group-behind']);
    assert.deepEqual([unjudged.breaches, unjudged.findings], [0, 3]);
    const [example] = unjudged.promises[0]?.kinds[0]?.examples ?? [];
    assert.match(
      example?.sentence ?? '',
      /user-statistics is 1,234 events behind and has consumed everything until 20/,
    );
    const judged = await look(['P7'], 1, gatesAtRest, behind(60));
    assert.deepEqual(kindsOf(judged).sort(), ['P7 group-behind', 'P7 statistics-behind']);
    assert.equal(judged.breaches, 1);
    const unknown = await look(['P7'], 1, gatesAtRest, behind(Number.POSITIVE_INFINITY));
    assert.deepEqual(kindsOf(unknown), ['P7 group-behind']);
  } finally {
    await filled.pool.query(set('2'));
  }
});

test('an order whose newest event may wait in an outbox is not judged by its effects', async () => {
  const { db, events, id } = await namesOf();
  const set = (version: string): string =>
    `UPDATE ${events}.counted_orders SET version = ${version} WHERE order_id = ${id(paid)}`;
  const wait = (seconds: number): string =>
    `DELETE FROM ${db(paid)}.outbox;
     INSERT INTO ${db(paid)}.outbox (payload, create_time) VALUES ('', UTC_TIMESTAMP(3) - INTERVAL ${seconds} SECOND)`;
  await filled.pool.query(set('1'));
  try {
    // The orders were made and last changed 300 s ago.
    await filled.pool.query(wait(3_600));
    assert.deepEqual(kindsOf(await look(['P7'])), ['P7 outbox-late']);
    await filled.pool.query(wait(60));
    assert.deepEqual(kindsOf(await look(['P7'])).sort(), [
      'P7 outbox-late',
      'P7 statistics-behind',
    ]);
  } finally {
    await filled.pool.query(`${set('2')}; DELETE FROM ${db(paid)}.outbox`);
  }
});

test('a store that cannot be read is told, and no promise is called kept for it', async () => {
  await filled.pool.query(`RENAME TABLE ${prefix}_events.counted_orders TO ${prefix}_events.away`);
  try {
    const { promises, breaches } = await look();
    const blind = promises.filter(({ couldNotLook }) => couldNotLook !== undefined);
    assert(blind.some(({ promise }) => promise === 'P7'));
    assert.match(blind[0]?.couldNotLook ?? '', /_events on MySQL at .* is laid out otherwise/);
    assert.equal(breaches, 0);
  } finally {
    await filled.pool.query(
      `RENAME TABLE ${prefix}_events.away TO ${prefix}_events.counted_orders`,
    );
  }
});
