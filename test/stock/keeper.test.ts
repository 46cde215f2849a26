import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { skuKeys } from '../../services/stock/redis-keys.ts';
import { eventually } from '../support/eventually.ts';
import { lockRows } from '../support/locked-rows.ts';
import { metric } from './buyers.ts';
import {
  holdsOf,
  newOrderId,
  newSku,
  reservation,
  type StockClients,
  startStockSystem,
} from './support.ts';

const system = await startStockSystem('keeper', { SLUICE_SETTLE_AGE_MS: '3000' });
after(() => system.close());

/** Leaves a line that passed its gate and was never posted. */
async function leavePending(skuId: bigint): Promise<bigint> {
  const { pending, entries, avail } = skuKeys(skuId);
  const orderId = newOrderId();
  await system.redis
    .multi()
    .decr(avail)
    .hset(entries, String(orderId), '1:77:left')
    .zadd(pending, Date.now(), String(orderId))
    .exec();
  return orderId;
}

test('while the row of one SKU is locked, pending lines of the others are settled', async () => {
  const [locked, free] = [await newSku(system, 10n), await newSku(system, 10n)];
  const lock = await lockRows(system.database, [
    `SELECT 1 FROM skus WHERE sku_id = ${locked} FOR UPDATE`,
  ]);
  let kept: bigint;
  try {
    kept = await leavePending(locked);
    const settled = await leavePending(free);
    await eventually(
      async () => (await holdsOf(system.pool, settled)).length === 1,
      'the line of the free SKU is barred',
    );
    assert.deepEqual(await holdsOf(system.pool, kept), []);
  } finally {
    await lock.release();
  }
  await eventually(
    async () => (await holdsOf(system.pool, kept)).length === 1,
    'the line of the locked SKU is barred afterwards',
  );
  const { $case } = (await system.stock.reserveStock({ reservations: [reservation([locked])] }))
    .results[0]?.outcome ?? { $case: undefined };
  assert.equal($case, 'reserved');
});

test('of several copies one looks after all gates, and another one when that one stops', async () => {
  const copies: StockClients[] = [system.first, await system.startCopy(), await system.startCopy()];
  const skuId = await newSku(system, 10n);
  // Of tomorrow, so that nobody settles it.
  await system.redis.zadd(skuKeys(skuId).pending, Date.now() + 86_400_000, String(newOrderId()));
  const shown = (): Promise<number[]> =>
    Promise.all(copies.map(({ metricsPort }) => metric(metricsPort, 'stock_pending_orders')));
  const total = (figures: readonly number[]): number => figures.reduce((sum, one) => sum + one, 0);
  const keeperIs = async (): Promise<number> => {
    let found = -1;
    await eventually(async () => {
      const figures = await shown();
      found = figures.indexOf(1);
      return total(figures) === 1;
    }, 'one copy shows the pending order');
    return found;
  };
  const first = await keeperIs();
  for (let look = 0; look < 20; look += 1) assert.equal(total(await shown()), 1);
  await copies.splice(first, 1)[0]?.stop();
  await keeperIs();
});
