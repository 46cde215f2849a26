import assert from 'node:assert/strict';
import { after, afterEach, test } from 'node:test';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import {
  atRest,
  holdsOf,
  newOrderId,
  newSku,
  reservation,
  reserve,
  shortAge,
  startStockSystem,
} from './support.ts';

const system = await startStockSystem('settle', shortAge);
after(() => system.close());
afterEach(() => failpoints.clear());

function failOnceAt(place: string): void {
  let hits = 0;
  failpoints.set(place, () => {
    hits += 1;
    if (hits === 1) throw new Error(`died at ${place}`);
  });
}

test('units of an order that died between gate and ledger come back, behind a fence', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 5n)];
  const order = reservation([first, second]);
  failOnceAt('stock.before_post');
  assert.equal((await reserve(system, order)).$case, 'unknown');
  const { gate } = await system.admin.getStockLayers({ skuId: first });
  assert.equal(gate?.available, 4n, 'nothing is undone at once');
  assert.equal(await atRest(system, first), 5);
  assert.equal(await atRest(system, second), 5);
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${first}:5`, `${second}:5`]);
  const retry = { ...order, orderId: newOrderId() };
  assert.equal((await reserve(system, retry)).$case, 'reserved', 'its record is forgotten');
});

test('an order that died behind its post keeps its units, and only its pending entry goes', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  failOnceAt('stock.after_post_commit');
  assert.equal((await reserve(system, order)).$case, 'unknown');
  assert.equal(await atRest(system, skuId), 4);
  assert.deepEqual(await holdsOf(system.pool, order.orderId), [`${skuId}:1`]);
  const retry = { ...order, orderId: order.orderId + 1n };
  assert.deepEqual(await reserve(system, retry), {
    $case: 'adopted',
    value: { orderId: order.orderId },
  });
});

test('a post that was held up until its order was fenced is dead', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  let hits = 0;
  failpoints.set('stock.before_post', async () => {
    hits += 1;
    if (hits === 1) await released;
  });
  const slow = reserve(system, order);
  await eventually(
    async () => (await holdsOf(system.pool, order.orderId)).length > 0,
    'the pending order is fenced',
  );
  release();
  assert.equal((await slow).$case, 'dead');
  assert.equal(await atRest(system, skuId), 5);
});

test('a credit that died behind its fence is given by the loop', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId, await newSku(system, 0n)]);
  failOnceAt('stock.before_credit');
  await reserve(system, order);
  assert.equal(await atRest(system, skuId), 5);
});

test('thousands of abandoned orders are settled', async () => {
  const skuId = await newSku(system, 5_000n);
  failpoints.set('stock.before_post', () => {
    throw new Error('no post today');
  });
  for (let batch = 0; batch < 4; batch += 1) {
    const reservations = Array.from({ length: 500 }, () => reservation([skuId]));
    await system.stock.reserveStock({ reservations });
  }
  failpoints.clear();
  assert.equal(await atRest(system, skuId), 5_000);
});
