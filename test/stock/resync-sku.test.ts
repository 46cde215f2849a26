import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { reasonOf } from '../../services/runtime/refusals.ts';
import { clearFailpoints, pauseAt } from '../support/composed.ts';
import { eventually } from '../support/eventually.ts';
import { lockRows } from '../support/locked-rows.ts';
import { metric } from './buyers.ts';
import {
  atRest,
  holdsOf,
  newSku,
  reservation,
  reserve,
  startStockSystem,
  untilOpen,
} from './support.ts';

const system = await startStockSystem('resync');
const copy = await system.startCopy();
after(() => system.close());
afterEach(clearFailpoints);

/** The work at one SKU; gates are installed in the background too. */
function at(skuId: bigint) {
  return ({ skuIds }: Readonly<Record<string, unknown>>): boolean =>
    (skuIds as readonly bigint[]).includes(skuId);
}

async function epochOf(skuId: bigint): Promise<bigint> {
  return (await system.stock.getSku({ skuId })).sku?.epoch ?? -1n;
}

test('a rebuilt gate has the figures and the buyers of the ledger, and a new epoch', async () => {
  const skuId = await newSku(system, 10n, { limitPerUser: 3 });
  const [kept, gone] = [reservation([skuId], { quantity: 3 }), reservation([skuId])];
  await system.stock.reserveStock({ reservations: [kept, gone] });
  const { orderId, userId, requestId } = gone;
  await system.stock.releaseStock({ releases: [{ orderId, userId, requestId, skuIds: [] }] });
  await atRest(system, skuId);
  const before = await epochOf(skuId);
  await system.redis.del(`{sku:${skuId}}:buyers`);
  const rebuilt = await system.admin.rebuildStock({ skuId });
  assert.equal(rebuilt.available, 7n);
  assert(rebuilt.epoch > before);
  assert.deepEqual(await system.redis.hgetall(`{sku:${skuId}}:buyers`), {
    ...{ 0: '0', [String(kept.userId)]: '3', [String(gone.userId)]: '0' },
  });
  const more = reservation([skuId], { userId: kept.userId });
  assert.equal((await reserve(system, more)).$case, 'refused', 'the limit still counts');
});

test('after FLUSHALL every gate opens again without a buyer, and nothing is oversold', async () => {
  const skuIds = [await newSku(system, 30n), await newSku(system, 30n)];
  const orders = skuIds.flatMap((skuId) => Array.from({ length: 10 }, () => reservation([skuId])));
  await system.stock.reserveStock({ reservations: orders });
  await system.redis.flushall();
  for (const skuId of skuIds) await untilOpen(system, skuId);
  for (const skuId of skuIds) {
    assert.equal(await sellOut(skuId), 20);
    assert.equal(await atRest(system, skuId), 0);
  }
});

/** Buys until everybody is told that there is nothing left; the other process may install a gate once more meanwhile. */
async function sellOut(skuId: bigint): Promise<number> {
  let sold = 0;
  await eventually(async () => {
    const reservations = Array.from({ length: 40 }, () => reservation([skuId]));
    const { results } = await copy.stock.reserveStock({ reservations });
    sold += results.filter(({ outcome }) => outcome?.$case === 'reserved').length;
    return results.every(({ outcome }) => {
      return outcome?.$case === 'refused' && reasonOf(outcome.value.reason) === 'SOLD_OUT';
    });
  }, `SKU ${skuId} is sold out`);
  return sold;
}

test('after a restart on older data the gate opens with what the ledger has', async () => {
  const skuId = await newSku(system, 10n);
  const [, dir] = (await system.redis.config('GET', 'dir')) as string[];
  cpSync(join(dir as string, 'appendonlydir'), join(dir as string, 'older'), { recursive: true });
  await system.stock.reserveStock({
    reservations: Array.from({ length: 6 }, () => reservation([skuId])),
  });
  await system.restartRedis((folder) => {
    const to = join(folder, 'appendonlydir');
    cpSync(join(folder, 'older'), to, { recursive: true, force: true });
  });
  await untilOpen(system, skuId);
  assert.equal(await atRest(system, skuId), 4);
});

test('an order that passed the old gate is refused by the new epoch and bars nothing', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  const post = pauseAt('stock.before_post');
  const slow = reserve(system, order);
  await post.reached;
  await system.redis.flushall();
  await untilOpen(system, skuId);
  post.release();
  const outcome = await slow;
  assert.equal(outcome.$case, 'refused');
  assert.deepEqual(await holdsOf(system.pool, order.orderId), []);
  const passes = async () => (await reserve(system, order)).$case === 'reserved';
  await eventually(passes, 'the same id passes the new gate');
  assert.equal(await atRest(system, skuId), 4);
});

test('an order pending when its gate closes is fenced if its post does not come in time', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  const post = pauseAt('stock.before_post');
  const slow = reserve(system, order);
  await post.reached;
  const { available } = await copy.admin.rebuildStock({ skuId });
  assert.equal(available, 5n);
  post.release();
  assert.equal((await slow).$case, 'dead');
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${skuId}:5`]);
  assert.equal(await atRest(system, skuId), 5);
});

/** How long a gate that closes waits for posts under way. */
const graceMs = 1_000;

test('an order posted while its gate closes is counted', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  const post = pauseAt('stock.before_post');
  const slow = reserve(system, order);
  await post.reached;
  // On a machine that stands still the post may be late; what bars it then waits for it, once it was late enough.
  const startedMs = performance.now();
  let barredAfterMs = Number.POSITIVE_INFINITY;
  failpoints.set('stock.before_fence', async () => {
    barredAfterMs = Math.min(barredAfterMs, performance.now() - startedMs);
    await slow;
  });
  const rebuilt = copy.admin.rebuildStock({ skuId });
  await eventually(
    async () => (await system.redis.hget(`{sku:${skuId}}:meta`, 'state')) === 'closing',
    'the gate is closing',
  );
  post.release();
  assert.equal((await slow).$case, 'reserved');
  assert.equal((await rebuilt).available, 4n);
  assert(barredAfterMs >= graceMs, `barred after ${barredAfterMs} ms`);
  assert.equal(await atRest(system, skuId), 4);
});

test('a resync that stalled behind its read cannot install over a newer one', async () => {
  const skuId = await newSku(system, 10n);
  const read = pauseAt('stock.resync_read', at(skuId));
  const stalled = system.admin.rebuildStock({ skuId }).catch(() => 'given up');
  await read.reached;
  await eventually(async () => {
    const { gate } = await copy.admin.getStockLayers({ skuId });
    return gate?.loaded;
  }, 'another process takes the stale closing over');
  assert.equal((await reserve(copy, reservation([skuId]))).$case, 'reserved');
  const epoch = await epochOf(skuId);
  read.release();
  await stalled;
  assert.equal(await atRest(system, skuId), 9);
  const { gate } = await copy.admin.getStockLayers({ skuId });
  assert(gate?.epoch !== undefined && gate.epoch >= epoch);
});

test('a release between the read and the installation is counted once', async () => {
  const skuId = await newSku(system, 10n);
  const order = reservation([skuId]);
  const { orderId, userId, requestId } = order;
  const other = reservation([skuId], { userId, quantity: 2 });
  await system.stock.reserveStock({ reservations: [order, other] });
  await atRest(system, skuId);
  const read = pauseAt('stock.resync_read', at(skuId));
  const rebuilt = system.admin.rebuildStock({ skuId });
  await read.reached;
  await copy.stock.releaseStock({ releases: [{ orderId, userId, requestId, skuIds: [] }] });
  read.release();
  assert.equal((await rebuilt).available, 7n, 'the read was before the release');
  await eventually(
    async () => (await copy.admin.getStockLayers({ skuId })).gate?.available === 8n,
    'the credit comes when the gate is open',
  );
  // The buyers are of the same moment as the figure, so the credit leaves what the user still holds.
  assert.deepEqual(await system.redis.hgetall(`{sku:${skuId}}:buyers`), {
    ...{ 0: '0', [String(userId)]: '2' },
  });
});

test('a gate that contradicts the ledger is put right without anybody asking', async () => {
  const [low, zero, high] = [
    await newSku(system, 10n),
    await newSku(system, 10n),
    await newSku(system, 10n),
  ];
  await system.redis.set(`{sku:${low}}:avail`, '3');
  await system.redis.set(`{sku:${zero}}:avail`, '0');
  await system.redis.set(`{sku:${high}}:avail`, '30');
  for (const skuId of [low, zero, high]) assert.equal(await atRest(system, skuId), 10);
});

test('a gate that was closed and left behind is opened by the check', async () => {
  const skuId = await newSku(system, 10n);
  let hits = 0;
  let told = (): void => undefined;
  const wasTold = new Promise<void>((resolve) => {
    told = resolve;
  });
  failpoints.set('stock.resync_closed', async (info) => {
    if (!at(skuId)(info)) return;
    hits += 1;
    if (hits === 1) throw new Error('died');
    await wasTold;
  });
  try {
    await assert.rejects(system.admin.rebuildStock({ skuId }));
    assert.equal((await reserve(system, reservation([skuId]))).$case, 'refused');
  } finally {
    told();
  }
  await untilOpen(system, skuId);
});

test('a buyer who finds the gate missing is told to come again soon', async () => {
  const skuId = await newSku(system, 10n);
  // Nobody may have opened it again when the buyer comes.
  const closed = pauseAt('stock.resync_closed', at(skuId));
  await system.redis.del(`{sku:${skuId}}:avail`, `{sku:${skuId}}:meta`);
  const outcome = await reserve(system, reservation([skuId]));
  closed.release();
  assert.equal(outcome.$case, 'refused');
  if (outcome.$case === 'refused') {
    assert.equal(outcome.value.reason, 14, 'STOCK_NOT_LOADED');
    assert.equal(outcome.value.retryAfterMs, 1_000);
  }
  await untilOpen(system, skuId);
});

test('the lag of installations rises while a gate cannot be installed, and is gone behind it', async () => {
  const skuId = await newSku(system, 10n);
  const lag = async (): Promise<number> => {
    const ports = [system.metricsPort, copy.metricsPort];
    return Math.max(
      ...(await Promise.all(ports.map((port) => metric(port, 'stock_resync_lag_seconds')))),
    );
  };
  const lock = await lockRows(system.database, [
    `SELECT title FROM skus WHERE sku_id = ${skuId} FOR UPDATE`,
  ]);
  try {
    await system.redis.del(`{sku:${skuId}}:meta`);
    await eventually(async () => (await lag()) > 8, 'the lag rises');
  } finally {
    await lock.release();
  }
  await untilOpen(system, skuId);
  await eventually(async () => (await lag()) === 0, 'nothing is wanted any more');
});
