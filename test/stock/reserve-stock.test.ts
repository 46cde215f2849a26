import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type {
  ReservationResult,
  StockReservation,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { reasonOf } from '../../services/runtime/refusals.ts';
import { atRest, holdsOf, newSku, reservation, reserve, startStockSystem } from './support.ts';

const system = await startStockSystem('reserve');
after(() => system.close());

type Outcome = NonNullable<ReservationResult['outcome']>;

function refusal(outcome: Outcome): { reason: string; skuId: bigint; lookUp: boolean } {
  assert.equal(
    outcome.$case,
    'refused',
    JSON.stringify(outcome, (_, v) => String(v)),
  );
  const { reason, skuId, lookUp } = (outcome as Extract<Outcome, { $case: 'refused' }>).value;
  return { reason: reasonOf(reason), skuId, lookUp };
}

test('an order of two SKUs is held in the ledger with its prices and leaves nothing pending', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 5n)];
  const order = reservation([first, second], { quantity: 2 });
  const outcome = await reserve(system, order);
  assert.deepEqual(outcome, {
    $case: 'reserved',
    value: {
      lines: [first, second].map((skuId) => ({
        skuId,
        quantity: 2,
        unitPrice: { currencyCode: 'USD', minorUnits: 1_999n },
      })),
    },
  });
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${first}:1`, `${second}:1`]);
  assert.equal(await atRest(system, first), 3);
  assert.equal(await atRest(system, second), 3);
});

test('the same order again answers the same and takes nothing more', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  const first = await reserve(system, order);
  assert.deepEqual(await reserve(system, order), first);
  assert.equal(await atRest(system, skuId), 4);
});

test('the same request under another order id is told to adopt the first', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  await reserve(system, order);
  const other = { ...order, orderId: order.orderId + 1n };
  assert.deepEqual(await reserve(system, other), {
    $case: 'adopted',
    value: { orderId: order.orderId },
  });
  assert.equal(await atRest(system, skuId), 4);
});

test('the same request with other content is an error', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  await reserve(system, order);
  const other = { ...order, orderId: order.orderId + 1n, fingerprint: Buffer.alloc(16, 8) };
  assert.deepEqual(refusal(await reserve(system, other)), {
    reason: 'IDEMPOTENCY_KEY_REUSED',
    skuId,
    lookUp: true,
  });
});

test('an order id of another request is refused as taken, from the gate and from the ledger', async () => {
  const [skuId, elsewhere] = [await newSku(system, 5n), await newSku(system, 5n)];
  const order = reservation([skuId]);
  await reserve(system, order);
  for (const sku of [skuId, elsewhere]) {
    const thief = reservation([sku], { orderId: order.orderId });
    assert.deepEqual(await reserve(system, thief), { $case: 'idTaken', value: {} });
  }
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${skuId}:1`]);
});

test('2,000 buyers for 50 units get exactly 50 holds', async () => {
  const skuId = await newSku(system, 50n);
  const batches = Array.from({ length: 20 }, () =>
    Array.from({ length: 100 }, () => reservation([skuId])),
  );
  const answers = await Promise.all(
    batches.map(
      async (reservations) => (await system.stock.reserveStock({ reservations })).results,
    ),
  );
  const kinds = answers.flat().map(({ outcome }) => outcome?.$case);
  assert.equal(kinds.filter((kind) => kind === 'reserved').length, 50);
  assert.equal(kinds.filter((kind) => kind === 'refused').length, 1_950);
  assert.equal(await atRest(system, skuId), 0);
  const [rows] = await system.pool.query(
    'SELECT COUNT(*) AS holds FROM stock_holds WHERE sku_id = ? AND state = 1',
    [skuId],
  );
  assert.equal(Number((rows as { holds: unknown }[])[0]?.holds), 50);
});

test('a sold-out refusal says whether the user is known to the SKU', async () => {
  const skuId = await newSku(system, 1n);
  const order = reservation([skuId]);
  await reserve(system, order);
  const again = reservation([skuId], { userId: order.userId });
  assert.deepEqual(refusal(await reserve(system, again)), {
    reason: 'SOLD_OUT',
    skuId,
    lookUp: true,
  });
  assert.equal(refusal(await reserve(system, reservation([skuId]))).lookUp, false);
});

test('a limit per user holds when the user clicks many times at once', async () => {
  const skuId = await newSku(system, 100n, { limitPerUser: 3 });
  const userId = 77n;
  const orders = Array.from({ length: 40 }, (_, index) =>
    reservation([skuId], { userId, requestId: `click ${index}` }),
  );
  const outcomes = await Promise.all(orders.map((order) => reserve(system, order)));
  assert.equal(outcomes.filter(({ $case }) => $case === 'reserved').length, 3);
  const refusals = outcomes.filter(({ $case }) => $case === 'refused').map(refusal);
  assert.deepEqual(new Set(refusals.map(({ reason }) => reason)), new Set(['PURCHASE_LIMIT']));
  assert.equal(await atRest(system, skuId), 97);
});

test('an order of which one SKU is sold out takes nothing of the others, not even for a moment', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 0n)];
  const order = reservation([first, second]);
  assert.deepEqual(refusal(await reserve(system, order)), {
    reason: 'SOLD_OUT',
    skuId: second,
    lookUp: false,
  });
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [], 'nothing had to be barred');
  const { gate, ledger } = await system.admin.getStockLayers({ skuId: first });
  assert.deepEqual([gate?.available, gate?.pendingOrders, ledger?.available], [5n, 0n, 5n]);
  assert.equal(gate?.buyers, 0n, 'its user is not known to the first SKU');
});

test('10,000 baskets behind a sold-out SKU leave the other one to those who want it alone', async () => {
  const [wanted, soldOut] = [await newSku(system, 50n), await newSku(system, 0n)];
  const singles = Array.from({ length: 50 }, () => reservation([wanted]));
  const single = singles.values();
  const told = new Map<string, number>();
  const basketsEach = 200;
  for (let call = 0; call < singles.length; call += 1) {
    const baskets = Array.from({ length: basketsEach }, () => reservation([wanted, soldOut]));
    const [crowd, one] = await Promise.all([
      system.stock.reserveStock({ reservations: baskets }),
      reserve(system, single.next().value as StockReservation),
    ]);
    assert.equal(one.$case, 'reserved');
    for (const { outcome } of crowd.results) {
      const { reason } = refusal(outcome as Outcome);
      told.set(reason, (told.get(reason) ?? 0) + 1);
    }
  }
  assert.deepEqual([...told], [['SOLD_OUT', basketsEach * singles.length]]);
  const [rows] = await system.pool.query(
    'SELECT COUNT(*) AS fences FROM stock_holds WHERE state = 5 AND sku_id IN (?)',
    [[wanted, soldOut]],
  );
  assert.equal(Number((rows as { fences: unknown }[])[0]?.fences), 0);
  assert.equal(await atRest(system, wanted), 0);
});

test('SKUs of different currencies are refused before anything is taken', async () => {
  const [dollars, euros] = [
    await newSku(system, 5n),
    await newSku(system, 5n, { currency: 'EUR' }),
  ];
  const order = reservation([dollars, euros]);
  const { reason } = refusal(await reserve(system, order));
  assert.equal(reason, 'INVALID_REQUEST');
  assert.deepEqual(await holdsOf(system.pool, order.orderId), []);
  for (const skuId of [dollars, euros]) {
    const { gate } = await system.admin.getStockLayers({ skuId });
    assert.deepEqual([gate?.available, gate?.pendingOrders, gate?.buyers], [5n, 0n, 0n]);
  }
});

test('an order whose last SKU sells out behind its first gate leaves nothing held and nothing pending', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 1n)];
  const order = reservation([first, second]);
  const rival = reservation([second]);
  failpoints.set('stock.before_gate', async ({ skuId }) => {
    if (skuId !== second) return;
    failpoints.clear('stock.before_gate');
    await system.redis.decr(`{sku:${second}}:avail`);
  });
  assert.deepEqual(refusal(await reserve(system, order)), {
    reason: 'SOLD_OUT',
    skuId: second,
    lookUp: false,
  });
  await system.redis.incr(`{sku:${second}}:avail`);
  assert.equal((await reserve(system, rival)).$case, 'reserved');
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${first}:5`]);
  const { gate, ledger } = await system.admin.getStockLayers({ skuId: first });
  assert.deepEqual([gate?.available, gate?.pendingOrders, ledger?.available], [5n, 0n, 5n]);
  const retry = { ...order, orderId: order.orderId + 50n };
  assert.equal((await reserve(system, retry)).$case, 'refused', 'the record is forgotten');
  assert.deepEqual(await reserve(system, { ...order, lines: order.lines.slice(0, 1) }), {
    $case: 'dead',
    value: {},
  });
});

/** Redis loses what it knows of one request, as after a failover; the gate is installed anew. */
async function forgetRequest(skuId: bigint, userId: bigint, requestId: string): Promise<void> {
  await system.redis.del(`{sku:${skuId}}:req:${userId}:${requestId}`);
  await system.admin.rebuildStock({ skuId });
}

for (const [name, more] of [
  ['the limit per user', { limitPerUser: 1 }],
  ['a sale that is sold out', {}],
] as const) {
  test(`a request whose units the ledger holds is led to its order id in spite of ${name}`, async () => {
    const skuId = await newSku(system, 1n, more);
    const order = reservation([skuId]);
    assert.equal((await reserve(system, order)).$case, 'reserved');
    await forgetRequest(skuId, order.userId, order.requestId);
    const retry = { ...order, orderId: order.orderId + 7n };
    const adopted = { $case: 'adopted', value: { orderId: order.orderId } };
    assert.deepEqual(await reserve(system, retry), adopted);
    assert.equal((await reserve(system, order)).$case, 'reserved', 'under its own id it has them');
    const other = { ...retry, fingerprint: Buffer.alloc(16, 9) };
    assert.equal(refusal(await reserve(system, other)).reason, 'IDEMPOTENCY_KEY_REUSED');
    const stranger = reservation([skuId], { userId: order.userId });
    assert.equal((await reserve(system, stranger)).$case, 'refused', 'another click of the user');
    assert.equal(await atRest(system, skuId), 0);
  });
}

test('a basket of which one SKU is sold out is led to the order of its request', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 1n)];
  const order = reservation([first, second]);
  assert.equal((await reserve(system, order)).$case, 'reserved');
  for (const skuId of [first, second]) await forgetRequest(skuId, order.userId, order.requestId);
  const retry = { ...order, orderId: order.orderId + 7n };
  assert.equal((await reserve(system, retry)).$case, 'adopted');
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${first}:1`, `${second}:1`]);
  assert.equal(await atRest(system, first), 4);
});

test('a gate that is too high sells nothing twice and is put right', async () => {
  const skuId = await newSku(system, 2n);
  await system.redis.set(`{sku:${skuId}}:avail`, '10');
  // In one call, so that none of them comes to the gate when it has been put right.
  const reservations = Array.from({ length: 6 }, () => reservation([skuId]));
  const { results } = await system.stock.reserveStock({ reservations });
  const outcomes = results.map(({ outcome }) => outcome as Outcome);
  assert.equal(outcomes.filter(({ $case }) => $case === 'reserved').length, 2);
  for (const outcome of outcomes.filter(({ $case }) => $case === 'refused')) {
    const { reason, lookUp } = refusal(outcome);
    assert(reason === 'SOLD_OUT' || reason === 'STOCK_NOT_LOADED', reason);
    if (reason === 'SOLD_OUT') assert(lookUp, 'the gate was wrong, so the order may exist');
  }
  assert.equal(await atRest(system, skuId), 0);
});

test('a SKU that does not exist is refused before any gate, and found once it is created', async () => {
  const known = await newSku(system, 5n);
  const skuId = 900_000n;
  const order = reservation([known, skuId]);
  assert.equal(refusal(await reserve(system, order)).reason, 'NOT_FOUND');
  assert.deepEqual(await holdsOf(system.pool, order.orderId), []);
  const unitPrice = { currencyCode: 'USD', minorUnits: 5n };
  await system.admin.createSku({ skuId, title: 'late', unitPrice, supplied: 1n });
  assert.equal((await reserve(system, order)).$case, 'reserved');
});

test('one wrong entry of a batch does not cost the others theirs', async () => {
  const skuId = await newSku(system, 500n);
  const reservations = Array.from({ length: 500 }, () => reservation([skuId]));
  reservations[250] = reservation([skuId], { quantity: 0 });
  reservations[251] = { ...(reservations[249] as (typeof reservations)[0]) };
  const { results } = await system.stock.reserveStock({ reservations });
  const kinds = results.map(({ outcome }) => outcome?.$case);
  assert.equal(kinds[250], 'refused');
  assert.equal(kinds.filter((kind) => kind === 'reserved').length, 499);
  assert.deepEqual(results[251], results[249], 'a copy shares the answer');
  assert.equal(await atRest(system, skuId), 2);
});
