import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { expectNoBreaches, readOrders } from '../support/invariants.ts';
import { type System, startSystem } from '../support/system.ts';
import { attemptUntilKnown, type Click, runSeed, startWorkload } from '../support/workload.ts';

let system: System;

before(async () => {
  system = await startSystem({
    name: 'oversell',
    orders: 2,
    stocks: 2,
    env: { SLUICE_SETTLE_AGE_MS: '2000' },
  });
});

after(async () => await system?.close());

function click(userId: number, requestId: string, skuId: bigint, quantity = 1): Click {
  return { userId: BigInt(userId), requestId, lines: [{ skuId, quantity }], outcomes: [] };
}

async function heldUnits(skuId: bigint): Promise<{ rows: number; units: number }> {
  const [rows] = await system.stockPool.query(
    'SELECT COUNT(*) AS holds, COALESCE(SUM(units), 0) AS units FROM stock_holds WHERE sku_id = ? AND state = 1',
    [skuId],
  );
  const [row] = rows as { holds: string; units: string }[];
  return { rows: Number(row?.holds), units: Number(row?.units) };
}

test('2,000 buyers want 50 units: exactly 50 orders, 50 holds and nothing left, counted in MySQL', async () => {
  const skuId = 50n;
  await system.createSku({ skuId, supplied: 50n });
  const clicks = Array.from({ length: 2_000 }, (_, user) => click(user + 1, `buy-${user}`, skuId));
  await Promise.all(
    clicks.map((each, index) => attemptUntilKnown(system.order(index % 2), each, 15_000)),
  );
  const kinds = clicks.map(({ outcomes }) => outcomes.at(-1));
  const orders = await readOrders(system.orderPools);
  assert.equal(orders.size, 50);
  assert.equal(kinds.filter((outcome) => outcome?.kind === 'ok').length, 50);
  const others = kinds.filter((outcome) => outcome?.kind !== 'ok');
  assert(others.every((outcome) => outcome?.kind === 'refused' && outcome.reason === 'SOLD_OUT'));
  assert.deepEqual(await heldUnits(skuId), { rows: 50, units: 50 });
  await expectNoBreaches(system, clicks);
  const { ledger, gate } = await system.admin.getStockLayers({ skuId });
  assert.equal(ledger?.available, 0n);
  assert.equal(gate?.available, 0n);
});

test('the limit per user holds when one user clicks fifty times at once', async () => {
  const skuId = 51n;
  await system.createSku({ skuId, supplied: 1_000n, limitPerUser: 3 });
  const clicks = Array.from({ length: 50 }, (_, index) => click(9_001, `limit-${index}`, skuId));
  await Promise.all(
    clicks.map((each, index) => attemptUntilKnown(system.order(index % 2), each, 15_000)),
  );
  const outcomes = clicks.map((each) => each.outcomes.at(-1));
  assert.equal(outcomes.filter((outcome) => outcome?.kind === 'ok').length, 3);
  const refused = outcomes.filter((outcome) => outcome?.kind === 'refused');
  assert(
    refused.every((outcome) => outcome?.kind === 'refused' && outcome.reason === 'PURCHASE_LIMIT'),
  );
  assert.equal(refused.length, 47);
  assert.deepEqual(await heldUnits(skuId), { rows: 3, units: 3 });
  await expectNoBreaches(system, clicks);
});

test('an order of several SKUs whose last one is sold out leaves nothing held', async () => {
  await system.createSku({ skuId: 52n, supplied: 10n });
  await system.createSku({ skuId: 53n, supplied: 0n });
  const greedy: Click = {
    userId: 9_100n,
    requestId: 'both',
    lines: [
      { skuId: 52n, quantity: 2 },
      { skuId: 53n, quantity: 1 },
    ],
    outcomes: [],
  };
  const outcome = await attemptUntilKnown(system.order(), greedy);
  assert.deepEqual(outcome, { kind: 'refused', reason: 'SOLD_OUT' });
  assert.deepEqual(await heldUnits(52n), { rows: 0, units: 0 });
  // What a gate did not get back at once it gets back by the settling loop.
  await expectNoBreaches(system, [greedy]);
  const all = click(9_101, 'all of it', 52n, 10);
  assert.equal(
    (await attemptUntilKnown(system.order(), all)).kind,
    'ok',
    'all ten can be bought by another',
  );
  await expectNoBreaches(system, [greedy, all]);
});

/** Buys what is left of a SKU, in ever smaller orders, until it is sold out. */
async function buyTheRest(skuId: bigint, history: Click[]): Promise<void> {
  for (const quantity of [1_000, 100, 10, 1]) {
    for (let count = 0; ; count += 1) {
      const rest = click(70_000 + count, `rest-${skuId}-${quantity}-${count}`, skuId, quantity);
      history.push(rest);
      const outcome = await attemptUntilKnown(system.order(count % 2), rest, 10_000);
      if (outcome.kind === 'refused' && outcome.reason === 'SOLD_OUT') break;
      assert.equal(
        outcome.kind,
        'ok',
        JSON.stringify(outcome, (_, value) => String(value)),
      );
    }
  }
}

/** Runs a sale, breaks Redis in the middle of it, and then sells the last unit. */
async function saleThroughLossOf(skuIds: readonly bigint[], lose: () => Promise<void>) {
  const supplied = 5_000n;
  const seed = runSeed();
  console.log(`seed ${seed} (SLUICE_TEST_SEED)`);
  for (const skuId of skuIds) await system.createSku({ skuId, supplied });
  const workload = startWorkload({
    clients: () => [system.order(0), system.order(1)],
    seed,
    skuIds,
    users: 5_000,
    concurrency: 24,
    restMs: 20,
  });
  const oks = (): number =>
    workload.history.filter(({ outcomes }) => outcomes.some(({ kind }) => kind === 'ok')).length;
  try {
    await eventually(() => oks() >= 100, 'the sale runs');
    await lose();
    // Ten seconds is the promise itself: the time by which the gate must be open again.
    await eventually(
      async () => {
        const open = await Promise.all(skuIds.map((skuId) => system.gateOpen(skuId)));
        return open.every(Boolean);
      },
      'every gate is open again',
      { withinMs: 10_000 },
    );
    const before = oks();
    await eventually(() => oks() >= before + 50, 'the sale goes on');
  } finally {
    await workload.stop();
  }
  await expectNoBreaches(system, workload.history);
  const rest: Click[] = [];
  for (const skuId of skuIds) await buyTheRest(skuId, rest);
  for (const skuId of skuIds) assert.equal(BigInt((await heldUnits(skuId)).units), supplied);
  await expectNoBreaches(system, [...workload.history, ...rest]);
}

test('FLUSHALL in the middle of a sale sells nothing twice, and the sale reopens', async () => {
  await saleThroughLossOf([54n, 55n], async () => {
    await system.redis.flushall();
  });
});

test('a restart of Redis in the middle of a sale sells nothing twice, and the sale reopens', async () => {
  await saleThroughLossOf([56n, 57n], () => system.restartRedis());
});

test('Redis coming back with older data sells nothing twice, and the sale reopens', async () => {
  const dir = join(dirname(system.redisServer.logFile), 'appendonlydir');
  const older = `${dir}.older`;
  await saleThroughLossOf([58n, 59n], async () => {
    // The copy is what a replica would have that lost the last second before it took over.
    cpSync(dir, older, { recursive: true });
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const { port } = system.redisServer;
    await system.redisServer.kill();
    cpSync(older, dir, { recursive: true, force: true });
    assert.equal(system.redisServer.port, port);
    await system.restartRedis();
  });
});
