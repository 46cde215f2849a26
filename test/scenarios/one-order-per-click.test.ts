import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { expectNoBreaches, readOrders } from '../support/invariants.ts';
import { type System, startSystem } from '../support/system.ts';
import { attemptUntilKnown, type Click } from '../support/workload.ts';

const skuId = 9n;
let system: System;

before(async () => {
  system = await startSystem({ name: 'click', orders: 2, stocks: 2 });
  await system.createSku({ skuId, supplied: 10_000n });
});

after(async () => await system?.close());

function click(userId: bigint, requestId: string, quantity = 1): Click {
  return { userId, requestId, lines: [{ skuId, quantity }], outcomes: [] };
}

const gateLoaded = (): Promise<boolean> => system.gateOpen(skuId);

async function ordersOf(userId: bigint): Promise<string[]> {
  const orders = await readOrders(system.orderPools);
  return [...orders.values()]
    .filter((order) => order.userId === String(userId))
    .map(({ orderId }) => orderId);
}

test('the same request id 1,000 times at once over two order processes is one order', async () => {
  const same = click(1n, 'thousand');
  const outcomes = await Promise.all(
    Array.from({ length: 1_000 }, (_, index) =>
      attemptUntilKnown(system.order(index % 2), same, 20_000),
    ),
  );
  const ids = new Set(
    outcomes.map((outcome) => (outcome.kind === 'ok' ? outcome.orderId : outcome)),
  );
  assert.equal(
    ids.size,
    1,
    JSON.stringify([...ids].slice(0, 5), (_, value) => String(value)),
  );
  const firsts = outcomes.filter((outcome) => outcome.kind === 'ok' && !outcome.replayed);
  // The one that created it may have lost its answer; asked again, it is a repetition as well.
  const lost = same.outcomes.some(({ kind }) => kind === 'unknown');
  assert(firsts.length === 1 || (lost && firsts.length === 0), 'exactly one of them created it');
  assert.equal((await ordersOf(1n)).length, 1);
  const { ledger } = await system.admin.getStockLayers({ skuId });
  assert.equal(ledger?.held, 1n);
});

test('the same request id with other content is an error, also when both come at once', async () => {
  assert.equal((await attemptUntilKnown(system.order(0), click(2n, 'content'))).kind, 'ok');
  const other = await attemptUntilKnown(system.order(1), click(2n, 'content', 2));
  assert.deepEqual(other, { kind: 'refused', reason: 'IDEMPOTENCY_KEY_REUSED' });
  const racing = await Promise.all(
    Array.from({ length: 40 }, (_, index) =>
      attemptUntilKnown(system.order(index % 2), click(3n, 'race', 1 + (index % 2)), 10_000),
    ),
  );
  const ok = racing.filter((outcome) => outcome.kind === 'ok');
  assert(ok.length >= 1 && ok.length <= 20, `${ok.length} of one content`);
  assert.equal((await ordersOf(3n)).length, 1);
  for (const outcome of racing) {
    if (outcome.kind === 'refused') assert.equal(outcome.reason, 'IDEMPOTENCY_KEY_REUSED');
  }
});

test('equal lines are one content in whatever order and pieces they come', async () => {
  const pieces: Click = {
    ...click(4n, 'pieces'),
    lines: [
      { skuId, quantity: 1 },
      { skuId, quantity: 2 },
    ],
  };
  const first = await attemptUntilKnown(system.order(0), pieces);
  const merged = await attemptUntilKnown(system.order(1), click(4n, 'pieces', 3));
  assert(first.kind === 'ok' && merged.kind === 'ok' && merged.replayed);
  assert.equal(merged.orderId, first.orderId);
});

test('after Redis has forgotten, a retry still answers its order and holds nothing more', async () => {
  const first = await attemptUntilKnown(system.order(0), click(5n, 'flushed'));
  assert(first.kind === 'ok');
  await system.redis.flushall();
  await eventually(gateLoaded, 'the gate opens again');
  const again = await attemptUntilKnown(system.order(1), click(5n, 'flushed'));
  assert(again.kind === 'ok' && again.replayed);
  assert.equal(again.orderId, first.orderId);
  const other = await attemptUntilKnown(system.order(0), click(5n, 'flushed', 7));
  assert.deepEqual(other, { kind: 'refused', reason: 'IDEMPOTENCY_KEY_REUSED' });
  // A hold that could not be given back at once is given back by the sweep, after 15 s.
  await eventually(
    async () => {
      const [rows] = await system.stockPool.query(
        'SELECT COUNT(*) AS holds FROM stock_holds WHERE user_id = 5 AND state = 1',
      );
      return Number((rows as { holds: string }[])[0]?.holds) === 1;
    },
    'one hold is left',
    { withinMs: 60_000 },
  );
});

test('a retry of an order whose sale has ended answers the order, with and without Redis', async () => {
  const short = 10n;
  await system.createSku({ skuId: short, supplied: 5n });
  const buy: Click = { ...click(6n, 'late'), lines: [{ skuId: short, quantity: 1 }] };
  const first = await attemptUntilKnown(system.order(0), buy);
  assert(first.kind === 'ok');
  await system.admin.updateSku({ skuId: short, closeTime: new Date(Date.now() - 1_000) });
  await eventually(async () => {
    const late = { ...buy, userId: 7n, requestId: 'too late', outcomes: [] };
    const outcome = await attemptUntilKnown(system.order(0), late);
    return outcome.kind === 'refused' && outcome.reason === 'SALE_ENDED';
  }, 'the sale has ended for others');
  const again = await attemptUntilKnown(system.order(1), buy);
  assert(again.kind === 'ok' && again.replayed && again.orderId === first.orderId);
  await system.redis.flushall();
  await eventually(gateLoaded, 'the gate opens again');
  await eventually(async () => {
    const outcome = await attemptUntilKnown(system.order(0), buy);
    return outcome.kind === 'ok' && outcome.orderId === first.orderId;
  }, 'the retry finds its order in MySQL');
});

test('a request id may be used by two users, and a user may use two', async () => {
  const outcomes = await Promise.all([
    attemptUntilKnown(system.order(0), click(11n, 'shared')),
    attemptUntilKnown(system.order(1), click(12n, 'shared')),
    attemptUntilKnown(system.order(1), click(12n, 'Shared')),
    attemptUntilKnown(system.order(0), click(12n, 'shared ')),
  ]);
  const ids = new Set(outcomes.map((outcome) => outcome.kind === 'ok' && String(outcome.orderId)));
  assert.equal(ids.size, 4, 'case and trailing spaces count');
  assert(outcomes.every(({ kind }) => kind === 'ok'));
});

test('nothing of all this broke a promise', async () => {
  await expectNoBreaches(system);
});
