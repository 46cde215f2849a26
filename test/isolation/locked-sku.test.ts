import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type LockedRows, lockRows } from '../support/locked-rows.ts';
import { type System, startSystem } from '../support/system.ts';
import { buyers } from './buyers.ts';
import { assertRecovered, assertUnharmed, type Group, type Phases, runTrial } from './harness.ts';
import { httpBuyers } from './http-buyers.ts';

// The row of one SKU is locked, as by an operator's forgotten transaction: its buyers are refused or do
// not know within their budget, and nobody else notices.

const lockedSku = 7_001n;
const freeSkus = Array.from({ length: 9 }, (_, index) => 7_002n + BigInt(index));
/** What a buyer waits for, and what a busy machine may add to that. */
const budgetMs = 2_000;
const lateMsMax = 2_000;

let system: System;

before(async () => {
  system = await startSystem({ name: 'locked', edge: true, orders: 2, stocks: 2 });
  for (const skuId of [lockedSku, ...freeSkus]) {
    await system.createSku({ skuId, supplied: 1_000_000n });
  }
});

after(() => system?.close());

async function trial(groups: {
  free: Group;
  locked: Group;
}): Promise<{ free: Phases; locked: Phases }> {
  let lock: LockedRows | undefined;
  return await runTrial({
    groups,
    bad: {
      async on() {
        const sql = `SELECT 1 FROM skus WHERE sku_id = ${lockedSku} FOR UPDATE`;
        lock = await lockRows(`${system.prefix}_stock`, [sql]);
      },
      off: async () => await lock?.release(),
    },
    // Until the row is locked.
    graceMs: 200,
    beforeMs: 3_000,
    duringMs: 5_000,
    recoveryMs: 2_000,
    afterMs: 2_000,
  });
}

function assertOnlyItsOwn({ free, locked }: { free: Phases; locked: Phases }): void {
  assertUnharmed(free, 'buyers of the free SKUs');
  assertRecovered(free, 'buyers of the free SKUs');
  assertRecovered(locked, 'buyers of the locked SKU');
  const { during } = locked;
  // Who came in the last moment of the lock was served behind it.
  assert.ok(during.made <= during.sent / 10, `the lock held: ${JSON.stringify(during)}`);
  assert.ok(during.otherMs.max <= budgetMs + lateMsMax, JSON.stringify(during));
}

test('orders of other SKUs are made while the row of one is locked', async () => {
  const common = { users: 100_000, client: (number: number) => system.order(number % 2) };
  const free = { label: 'free', perSecond: 90, skuIds: freeSkus, firstUserId: 1n };
  const locked = { label: 'locked', perSecond: 10, skuIds: [lockedSku], firstUserId: 200_000n };
  assertOnlyItsOwn(
    await trial({
      free: buyers({ ...common, ...free }),
      locked: buyers({ ...common, ...locked }),
    }),
  );
});

test('over the edge, orders of other SKUs are made while the row of one is locked', async () => {
  const url = `http://127.0.0.1:${system.edge?.port}`;
  const free = { label: 'e-free', perSecond: 45, skuIds: freeSkus, firstUserId: 400_000n };
  const locked = { label: 'e-locked', perSecond: 5, skuIds: [lockedSku], firstUserId: 600_000n };
  assertOnlyItsOwn(
    await trial({ free: httpBuyers({ url, ...free }), locked: httpBuyers({ url, ...locked }) }),
  );
});

test('an order of a free and the locked SKU harms no order of the free one', async () => {
  const client = (number: number) => system.order(number % 2);
  const [freeSku = 0n] = freeSkus;
  const baskets: Group = buyers({
    label: 'baskets',
    perSecond: 10,
    skuIds: [freeSku],
    besideSkuIds: [lockedSku],
    firstUserId: 900_000n,
    client,
  });
  const free = { label: 'beside', perSecond: 60, skuIds: [freeSku], firstUserId: 700_000n };
  assertOnlyItsOwn(await trial({ free: buyers({ ...free, client }), locked: baskets }));
});
