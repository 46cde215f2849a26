import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import {
  type Composed,
  clearFailpoints,
  compose,
  failOnceAt,
  isGateOpen,
  pauseAt,
  type Side,
  untilGateOpen,
} from '../support/composed.ts';
import { eventually } from '../support/eventually.ts';
import { expectNoBreaches } from '../support/invariants.ts';
import { attempt, attemptUntilKnown, type Click, type Outcome } from '../support/workload.ts';

// The interleavings that broke earlier drafts of the design, each forced by failpoints.

/** Longer than any pause of a test. */
const patientMs = 20_000;
/** How long order waits for stock: beyond it order cannot know what stock did. */
const stockMs = 2_900;
/** A machine that stands still for a second or two must not settle what a test holds, nor give Redis up. */
const unhurried = { SLUICE_SETTLE_AGE_MS: '4000', SLUICE_REDIS_TIMEOUT_MS: '2500' };
let system: Composed;
let lastSku = 100n;
const history: Click[] = [];

before(async () => {
  system = await compose('interleave', unhurried);
});

after(async () => await system?.close());

afterEach(async () => {
  clearFailpoints();
  await expectNoBreaches({ ...system, admin: system.b.admin }, history);
});

async function newSku(supplied: bigint, limitPerUser = 0): Promise<bigint> {
  lastSku += 1n;
  await system.a.admin.createSku({
    skuId: lastSku,
    title: `Thing ${lastSku}`,
    unitPrice: { currencyCode: 'EUR', minorUnits: 100n },
    supplied,
    limitPerUser,
  });
  await untilGateOpen(system.b, lastSku);
  return lastSku;
}

let lastUser = 0n;

function newClick(...skuIds: bigint[]): Click {
  lastUser += 1n;
  const lines = skuIds.map((skuId) => ({ skuId, quantity: 1 }));
  const click = { userId: lastUser, requestId: `r${lastUser}`, lines, outcomes: [] };
  history.push(click);
  return click;
}

const buy = (side: Side, click: Click): Promise<Outcome> => attempt(side.order, click, patientMs);
const buyUntilKnown = (side: Side, click: Click): Promise<Outcome> =>
  attemptUntilKnown(side.order, click, patientMs);

/** The answer, or if it is that nobody knows, that of the same request again. */
async function known(side: Side, click: Click, answer: Promise<Outcome>): Promise<Outcome> {
  const outcome = await answer;
  return outcome.kind === 'unknown' ? await buyUntilKnown(side, click) : outcome;
}

function requestRecord({ userId, requestId }: Click, skuId: bigint): string {
  return `{sku:${skuId}}:req:${userId}:${requestId}`;
}

async function holdsOf(click: Click): Promise<{ orderId: string; skuId: string; state: number }[]> {
  const [rows] = await system.stockPool.query(
    'SELECT order_id, sku_id, state FROM stock_holds WHERE user_id = ? ORDER BY order_id, sku_id',
    [click.userId],
  );
  return (rows as Record<string, unknown>[]).map((row) => ({
    orderId: String(row.order_id),
    skuId: String(row.sku_id),
    state: Number(row.state),
  }));
}

async function watermark(): Promise<bigint> {
  const [rows] = await system.stockPool.query('SELECT order_id FROM watermark');
  return BigInt((rows as { order_id: string }[])[0]?.order_id ?? 0);
}

function isOk(outcome: Outcome): asserts outcome is Outcome & { kind: 'ok' } {
  assert.equal(
    outcome.kind,
    'ok',
    JSON.stringify(outcome, (_, value) => String(value)),
  );
}

test('1: a retry that posts an adopted id after the sweep has passed it leaves no unchecked hold', async () => {
  const skuId = await newSku(5n);
  const click = newClick(skuId);
  failOnceAt('stock.after_gate');
  assert.equal((await buy(system.a, click)).kind, 'unknown');
  // The pending entry is lost too, so that no FENCED row bars the post: the watermark alone must.
  await system.redis.del(`{sku:${skuId}}:pending`, `{sku:${skuId}}:entries`);
  const adopted = pauseAt('order.after_adopt_read');
  const retry = buy(system.b, click);
  const { orderIds } = await adopted.reached;
  const [lostId] = orderIds as [bigint];
  await eventually(async () => (await watermark()) >= lostId, 'the sweep passes the lost id');
  assert.deepEqual(await holdsOf(click), []);
  adopted.release();
  const outcome = await known(system.b, click, retry);
  isOk(outcome);
  assert.notEqual(outcome.orderId, lostId, 'the lost id is dead');
  const held = (await holdsOf(click)).filter(({ state }) => state === 1);
  assert.deepEqual(held, [{ orderId: String(outcome.orderId), skuId: String(skuId), state: 1 }]);
});

test('2: a post that passed a gate which was lost since is refused, and the unit is sold once', async () => {
  const skuId = await newSku(1n);
  const click = newClick(skuId);
  const post = pauseAt('stock.before_post');
  const begunAt = performance.now();
  const slow = buy(system.a, click);
  await post.reached;
  await system.redis.flushall();
  // Not left to the check of the gates, because order does not wait for long.
  await system.b.admin.rebuildStock({ skuId }).catch(() => undefined);
  await untilGateOpen(system.b, skuId);
  // The unit is still free in the ledger, but the new gate does not know that this post is coming.
  post.release();
  const outcome = await slow;
  const isLate = performance.now() - begunAt > stockMs;
  const reason = isLate && 'reason' in outcome ? outcome.reason : 'STOCK_NOT_LOADED';
  assert.deepEqual(outcome, { kind: 'unknown', reason });
  isOk(await buyUntilKnown(system.b, newClick(skuId)));
  assert.deepEqual(await buyUntilKnown(system.a, click), { kind: 'refused', reason: 'SOLD_OUT' });
});

test('3: after Redis fell back behind an order, its retry is never told SOLD_OUT', async () => {
  const skuId = await newSku(1n);
  const dir = join(((await system.redis.config('GET', 'dir')) as string[])[1] as string);
  cpSync(join(dir, 'appendonlydir'), join(dir, 'older'), { recursive: true });
  const click = newClick(skuId);
  const first = await buyUntilKnown(system.a, click);
  isOk(first);
  await system.restartRedis((folder) => {
    cpSync(join(folder, 'older'), join(folder, 'appendonlydir'), { recursive: true, force: true });
  });
  // A stranger who gets through the old gate would keep its unit until the ledger refuses him.
  const post = pauseAt('stock.before_post');
  let stranger: Promise<Outcome> | undefined;
  await eventually(async () => {
    stranger = buy(system.b, newClick(skuId));
    const first = await Promise.race([stranger, post.reached]);
    return !('reason' in first) || first.reason !== 'DEPENDENCY_DOWN';
  }, 'Redis is reached again');
  let answered = 0n;
  await eventually(async () => {
    const answer = await buy(system.a, click);
    const told = JSON.stringify(answer, (_, value) => String(value));
    assert.notEqual(answer.kind, 'refused', told);
    if (answer.kind === 'ok') answered = answer.orderId;
    return answer.kind === 'ok';
  }, 'the retry gets its order');
  assert.equal(answered, first.orderId);
  post.release();
  assert.notEqual((await stranger)?.kind, 'ok', 'the unit is not sold twice');
});

test('4: a retry that the ledger refuses, because gate and record are wrong, finds its order', async () => {
  const skuId = await newSku(1n);
  const click = newClick(skuId);
  const first = await buyUntilKnown(system.a, click);
  isOk(first);
  await eventually(async () => {
    const { gate } = await system.a.admin.getStockLayers({ skuId });
    return gate?.pendingOrders === 0n;
  }, 'its entry is settled');
  await system.redis.del(requestRecord(click, skuId));
  await system.redis.set(`{sku:${skuId}}:avail`, '3');
  const again = await buyUntilKnown(system.b, click);
  isOk(again);
  assert.equal(again.orderId, first.orderId);
  assert(again.replayed);
});

test('5: an installation that stalled cannot install its old figures over a newer one', async () => {
  const skuId = await newSku(10n);
  // Other gates may be installed in the background.
  const install = pauseAt('stock.before_install', (info) => info.skuId === skuId);
  const stalled = system.a.admin.rebuildStock({ skuId }).catch((error: unknown) => error);
  await install.reached;
  // The other side respects a fresh closing for some seconds and then takes over.
  await eventually(async () => {
    if (await isGateOpen(system.b, skuId)) return true;
    await system.b.admin.rebuildStock({ skuId }).catch(() => undefined);
    return false;
  }, 'the other side installs');
  isOk(await buyUntilKnown(system.b, newClick(skuId)));
  await system.restartRedis();
  install.release();
  await stalled;
  await untilGateOpen(system.b, skuId);
  const { gate, ledger } = await system.b.admin.getStockLayers({ skuId });
  assert.equal(gate?.available, 9n);
  assert.equal(ledger?.available, 9n);
});

test('6: a retry whose record is lost while its order is being committed is led to that order', async () => {
  const skuId = await newSku(5n, 1);
  const click = newClick(skuId);
  const commit = pauseAt('order.before_commit');
  const slow = buy(system.a, click);
  await commit.reached;
  await system.redis.del(requestRecord(click, skuId));
  // The gate refuses the retry by the limit; the ledger still holds the units of its first attempt.
  const adopted = pauseAt('order.after_adopt_read');
  const retry = buy(system.b, click);
  const { orderIds } = await adopted.reached;
  commit.release();
  const first = await known(system.a, click, slow);
  isOk(first);
  assert.deepEqual(orderIds, [first.orderId]);
  adopted.release();
  const again = await known(system.b, click, retry);
  isOk(again);
  assert.equal(again.orderId, first.orderId);
});

test('6c: a request that nobody has inserted yet is not refused by what its own first attempt holds', async () => {
  const skuId = await newSku(1n);
  const click = newClick(skuId);
  const insert = pauseAt('order.before_begin');
  const slow = buy(system.a, click);
  await insert.reached;
  // Redis loses the record, and the unit is gone: the retry finds no order, only the hold tells of it.
  await system.redis.flushall();
  await system.b.admin.rebuildStock({ skuId }).catch(() => undefined);
  await untilGateOpen(system.b, skuId);
  const retry = await attempt(system.b.order, click, patientMs);
  insert.release();
  const first = await known(system.a, click, slow);
  isOk(first);
  const again = retry.kind === 'unknown' ? await buyUntilKnown(system.b, click) : retry;
  isOk(again);
  assert.equal(again.orderId, first.orderId);
});

test('6b: a look-up that cannot see past a lock is unknown, not a refusal', async () => {
  const skuId = await newSku(5n, 1);
  const click = newClick(skuId);
  const commit = pauseAt('order.before_commit');
  const slow = buy(system.a, click);
  await commit.reached;
  await system.redis.del(requestRecord(click, skuId));
  const retry = await buy(system.b, click);
  assert.deepEqual(retry, { kind: 'unknown', reason: 'OUTCOME_UNKNOWN' });
  commit.release();
  isOk(await slow);
});

test('7: an attempt that meets its fence gives its last unit back before it starts over', async () => {
  const skuId = await newSku(1n);
  const click = newClick(skuId);
  const insert = pauseAt('order.before_begin');
  const slow = buy(system.a, click);
  const { orderIds } = await insert.reached;
  const [fencedId] = orderIds as [bigint];
  await system.b.order.resolveOrders({ orderIds: [fencedId] });
  insert.release();
  const outcome = await known(system.a, click, slow);
  isOk(outcome);
  assert.notEqual(outcome.orderId, fencedId);
});

test('8: an adopted id passes the gates of all its SKUs', async () => {
  const [first, second] = [await newSku(5n), await newSku(5n)];
  const click = newClick(first, second);
  failOnceAt('stock.after_gate');
  assert.equal((await buy(system.a, click)).kind, 'unknown');
  await system.a.admin.updateSku({ skuId: second, paused: true });
  const retry = await buyUntilKnown(system.b, click);
  assert.deepEqual(retry, { kind: 'refused', reason: 'SKU_PAUSED' });
  assert.deepEqual(
    (await holdsOf(click)).filter(({ state }) => state === 1),
    [],
  );
});

test('9: a copy that undoes its first SKU cannot leave the other copy with the second alone', async () => {
  const [first, second] = [await newSku(5n), await newSku(1n)];
  const click = newClick(first, second);
  const asked = pauseAt('stock.after_ask', (info) => info.skuId === second);
  const fence = pauseAt('stock.before_fence');
  const refused = buy(system.a, click);
  await asked.reached;
  // The last unit goes after the gates were asked, so that the first SKU has been taken in vain.
  isOk(await buyUntilKnown(system.b, newClick(second)));
  asked.release();
  await fence.reached;
  await system.a.admin.adjustStock({ skuId: second, delta: 5n, requestId: `more-${second}` });
  const post = pauseAt('stock.before_post');
  const copy = buy(system.b, click);
  await post.reached;
  fence.release();
  await refused;
  post.release();
  const outcome = await copy;
  const held = (await holdsOf(click)).filter(({ state }) => state === 1);
  if (outcome.kind === 'ok') {
    const own = held.filter(({ orderId }) => orderId === String(outcome.orderId));
    assert.deepEqual(
      own.map(({ skuId }) => skuId),
      [String(first), String(second)],
    );
    assert.equal(own.length, held.length);
  } else {
    assert.deepEqual(held, []);
  }
});

test('10: releasing an order that the ledger never held gives nothing and bars its late post', async () => {
  const skuId = await newSku(3n);
  const click = newClick(skuId);
  const post = pauseAt('stock.before_post');
  const slow = buy(system.a, click);
  await post.reached;
  const ids = await system.redis.zrange(`{sku:${skuId}}:pending`, '0', '-1');
  const [orderId] = ids.map((id) => BigInt(id)) as [bigint];
  const release = { orderId, skuIds: [skuId], userId: click.userId, requestId: click.requestId };
  for (let time = 0; time < 3; time += 1) {
    const { releasedUnits } = await system.b.stock.releaseStock({ releases: [release] });
    assert.deepEqual(releasedUnits, [0n]);
  }
  post.release();
  const outcome = await known(system.a, click, slow);
  isOk(outcome);
  assert.notEqual(outcome.orderId, orderId, 'the fenced id is dead, the request started over');
  const { ledger } = await system.b.admin.getStockLayers({ skuId });
  assert.equal(ledger?.available, 2n);
});

test('11: copies of one request in one batch are one order with one event', async () => {
  const skuId = await newSku(50n);
  const click = newClick(skuId);
  const request = { userId: click.userId, requestId: click.requestId, lines: [...click.lines] };
  const { results } = await system.a.order.batchCreateOrders({
    requests: Array.from({ length: 20 }, () => request),
  });
  const ids = results.map(({ outcome }) =>
    outcome?.$case === 'created' ? outcome.value.order?.orderId : outcome?.$case,
  );
  assert.equal(new Set(ids).size, 1);
  const { ledger } = await system.a.admin.getStockLayers({ skuId });
  assert.equal(ledger?.held, 1n);
});

test('13: a retry right after the end of the sale answers its order', async () => {
  const skuId = await newSku(5n);
  const click = newClick(skuId);
  const first = await buyUntilKnown(system.a, click);
  isOk(first);
  await system.a.admin.updateSku({ skuId, closeTime: new Date(Date.now() - 1_000) });
  const late = await buyUntilKnown(system.b, newClick(skuId));
  assert.deepEqual(late, { kind: 'refused', reason: 'SALE_ENDED' });
  const again = await buyUntilKnown(system.b, click);
  isOk(again);
  assert.equal(again.orderId, first.orderId);
});

test('14: when the reply to a commit is lost nothing is given back, and the retry finds the order', async () => {
  const skuId = await newSku(1n);
  const click = newClick(skuId);
  failOnceAt('order.after_commit');
  assert.deepEqual(await buy(system.a, click), { kind: 'unknown', reason: 'OUTCOME_UNKNOWN' });
  const stranger = await buyUntilKnown(system.b, newClick(skuId));
  assert.deepEqual(stranger, { kind: 'refused', reason: 'SOLD_OUT' });
  const again = await buyUntilKnown(system.b, click);
  isOk(again);
  assert(again.replayed);
});

test('14b: when the reply to the ledger commit is lost the retry adopts the same hold', async () => {
  const skuId = await newSku(1n);
  const click = newClick(skuId);
  failOnceAt('stock.after_post_commit');
  assert.equal((await buy(system.a, click)).kind, 'unknown');
  const again = await buyUntilKnown(system.b, click);
  isOk(again);
  const { ledger } = await system.b.admin.getStockLayers({ skuId });
  assert.equal(ledger?.held, 1n);
});
