import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { migrateAll } from '../../db/migrate.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import {
  claimRecheck,
  type RecheckClaim,
  type RecheckRange,
  type RecheckWalk,
  readRecheckPage,
  releaseRecheck,
  storeRecheckTurn,
} from '../../services/stock/ledger-recheck.ts';
import { firstOrderIdAt } from '../../services/stock/order-clock.ts';
import { dropDatabases } from '../support/databases.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';

// The second look's cursor and its pages, on a ledger that no process works on.

const prefix = uniquePrefix('recheck');
const dayMs = 86_400_000;
const ages = { ageMs: 3_600_000, ageMaxMs: 30 * dayMs };
const soon = (): Deadline => Deadline.after(10_000);
let pool: Pool;

before(async () => {
  const orderShards = { databases: 0, tables: 1 };
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  pool = createPool(mysqlUrl, { database: `${prefix}_stock`, connectionsMax: 4 });
});
after(async () => {
  await pool?.end();
  await dropDatabases(prefix);
});
beforeEach(async () => {
  await pool.query('UPDATE recheck_cursor SET order_id = 0, owner = NULL, due_time = NOW(3)');
  await pool.query('UPDATE watermark SET order_id = ?', [firstOrderIdAt(Date.now() - 15_000)]);
  await pool.query('DELETE FROM stock_holds');
});

const passOf = (owner: string): RecheckClaim => ({ walk: 'pass', owner });

async function claim(owner: string, walk: RecheckWalk = 'pass'): Promise<RecheckRange | undefined> {
  const [sinceMs, untilMs] = [Date.now() - ages.ageMaxMs, Date.now() - ages.ageMs];
  return await claimRecheck(pool, { walk, owner }, { sinceMs, untilMs }, soon());
}

test('a pass is over the orders between the two ages, none above the watermark', async () => {
  const range = (await claim('a')) as RecheckRange;
  const near = (orderId: bigint, ageMs: number): void => {
    const [from, to] = [ageMs + 60_000, ageMs - 60_000].map((ms) =>
      firstOrderIdAt(Date.now() - ms),
    );
    assert(orderId > (from as bigint) && orderId < (to as bigint), `${orderId}`);
  };
  near(range.after, ages.ageMaxMs);
  near(range.until, ages.ageMs);
  await releaseRecheck(pool, passOf('a'), soon());
  const watermark = firstOrderIdAt(Date.now() - 3 * dayMs);
  await pool.query('UPDATE watermark SET order_id = ?', [watermark]);
  assert.equal((await claim('a'))?.until, watermark);
});

test('one process at a time; another goes on where it stopped, after the rest', async () => {
  const claims = await Promise.all(['a', 'b', 'c', 'd'].map((owner) => claim(owner)));
  assert.equal(claims.filter((range) => range !== undefined).length, 1);
  const owner = ['a', 'b', 'c', 'd'][claims.findIndex((range) => range !== undefined)] as string;
  const last = firstOrderIdAt(Date.now() - 5 * dayMs);
  await storeRecheckTurn(pool, passOf('somebody else'), last, 0, soon());
  assert.equal(await claim('somebody else'), undefined, 'what is not its own it cannot give up');
  await storeRecheckTurn(pool, passOf(owner), last, 300_000, soon());
  assert.equal(await claim('e'), undefined, 'it is not time yet');
  await pool.query('UPDATE recheck_cursor SET due_time = NOW(3)');
  assert.equal((await claim('e'))?.after, last);
  await storeRecheckTurn(pool, passOf('e'), 0n, 0, soon());
  const next = (await claim('f')) as RecheckRange;
  assert(next.after < last, 'the next pass begins where orders are oldest');
});

test('a process that died holds the others up for a bounded time only', async () => {
  assert(await claim('dead'));
  assert.equal(await claim('b'), undefined);
  await pool.query('UPDATE recheck_cursor SET owned_until = NOW(3) - INTERVAL 1 SECOND');
  assert(await claim('b'));
  await storeRecheckTurn(pool, passOf('dead'), 7n, 300_000, soon());
  await releaseRecheck(pool, passOf('dead'), soon());
  assert.equal(await claim('c'), undefined, 'the claim of the second is not touched by the first');
});

test('a time that a clock far ahead has written holds up nobody when the clock is right again', async () => {
  assert(await claim('ahead'));
  await pool.query(
    `UPDATE recheck_cursor SET owned_until = NOW(3) + INTERVAL 10 MINUTE,
       due_time = NOW(3) + INTERVAL 10 MINUTE`,
  );
  assert(await claim('b'));
});

test('the walk along the edge goes on beside the passes, with a cursor of its own', async () => {
  const first = (await claim('a', 'edge')) as RecheckRange;
  assert(await claim('b'), 'a pass is taken beside it');
  await storeRecheckTurn(pool, { walk: 'edge', owner: 'a' }, first.until, 0, soon());
  const next = (await claim('c', 'edge')) as RecheckRange;
  assert.equal(next.after, first.until);
  assert(next.until >= first.until);
});

/** Orders of one to three lines; in every seventh one line or more is HELD. */
async function fillHolds(count: number): Promise<bigint[]> {
  const [first, held] = [firstOrderIdAt(Date.now() - dayMs), [] as bigint[]];
  const rows: unknown[][] = [];
  for (let index = 0; index < count; index += 1) {
    const orderId = first + BigInt(index * 1_000);
    const isHeld = index % 7 === 0;
    if (isHeld) held.push(orderId);
    const lines = 1 + (index % 3);
    for (let skuId = 1; skuId <= lines; skuId += 1) {
      const state = isHeld && skuId === lines ? 1 : 2 + (index % 4);
      rows.push([orderId, skuId, 9, 'r', Buffer.alloc(16), 1, 100, 'EUR', state]);
    }
  }
  await pool.query(
    `INSERT INTO stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units,
       unit_price_minor, currency, state) VALUES ?`,
    [rows],
  );
  return held;
}

for (const [rowsMax, ordersMax] of [
  [10, 500],
  [1_000, 3],
  [5, 1],
] as const) {
  test(`pages of ${rowsMax} rows and ${ordersMax} orders at most come to every held order once`, async () => {
    const held = await fillHolds(210);
    const seen: bigint[] = [];
    let range = (await claim('a')) as RecheckRange;
    for (let pages = 0; range.after < range.until; pages += 1) {
      assert(pages < 1_000, 'the pages come to an end');
      const page = await readRecheckPage(pool, range, { rowsMax, ordersMax }, soon());
      assert(page.orderIds.length <= ordersMax && page.orderIds.length <= rowsMax);
      assert(page.last > range.after && page.last <= range.until);
      seen.push(...page.orderIds);
      range = { ...range, after: page.last };
    }
    assert.deepEqual(seen, held);
  });
}
