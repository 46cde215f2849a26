import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { eventually } from '../support/eventually.ts';
import { figuresOf, startBuyers, untilSold } from './buyers.ts';
import { atRest, newSku, shortAge, startStockSystem, untilOpen } from './support.ts';

const system = await startStockSystem('rebuild', shortAge);
const copy = await system.startCopy();
after(() => system.close());

async function expectAddedUp(skuId: bigint): Promise<void> {
  await atRest(system, skuId);
  const { supplied, available, held, rowsHeld } = await figuresOf(system, skuId);
  assert.equal(supplied, available + held);
  assert.equal(held, rowsHeld);
}

test('a gate is rebuilt again and again while buyers go on, and their sale goes on between', async () => {
  const skuId = await newSku(system, 100_000n);
  const all = [startBuyers(system, [skuId]), startBuyers(copy, [skuId], { seed: 100 })] as const;
  let last = 0n;
  try {
    for (let count = 0; count < 5; count += 1) {
      await untilSold(all[count % 2] as (typeof all)[0], 10);
      const side = count % 2 ? system : copy;
      const { epoch } = await side.admin.rebuildStock({ skuId });
      assert(epoch > last);
      last = epoch;
    }
    await untilSold(all[0], 10);
  } finally {
    await Promise.all(all.map((buyers) => buyers.stop()));
  }
  await expectAddedUp(skuId);
});

test('a gate that is rebuilt by many at once, through two processes, is open for all of them', async () => {
  const skuId = await newSku(system, 100_000n);
  const buyers = startBuyers(system, [skuId]);
  try {
    await untilSold(buyers, 10);
    const rebuilt = await Promise.all(
      Array.from({ length: 6 }, (_, index) =>
        (index % 2 ? system : copy).admin.rebuildStock({ skuId }).catch(fromClientError),
      ),
    );
    // Whoever is told that it was not opened in time was told so because another one is at it.
    const epochs = rebuilt.flatMap((each) => ('epoch' in each ? [each.epoch] : []));
    for (const each of rebuilt) {
      if (!('epoch' in each)) assert.equal(each.reason, 'STOCK_NOT_LOADED');
    }
    assert(epochs.length >= 2);
    assert.equal(new Set(epochs).size, epochs.length, 'each has installed it');
    await untilSold(buyers, 10);
  } finally {
    await buyers.stop();
  }
  await expectAddedUp(skuId);
});

test('more SKUs are created and rebuilt at once than there are connections, and buyers go on', async () => {
  const skuId = await newSku(system, 100_000n);
  const fewConnections = await system.startCopy({ SLUICE_STOCK_MYSQL_CONNECTIONS: '8' });
  const buyers = startBuyers(fewConnections, [skuId]);
  const unitPrice = { currencyCode: 'USD', minorUnits: 1n };
  const skuIds = Array.from({ length: 12 }, (_, index) => 700_000n + BigInt(index));
  try {
    await untilSold(buyers, 10);
    const created = Promise.all(
      skuIds.map((each) =>
        fewConnections.admin.createSku({ skuId: each, title: 'one of many', unitPrice }),
      ),
    );
    await untilSold(buyers, 50);
    await created;
    const rebuilt = Promise.all(
      skuIds.map((each) => fewConnections.admin.rebuildStock({ skuId: each })),
    );
    await untilSold(buyers, 50);
    await rebuilt;
  } finally {
    await buyers.stop();
  }
  for (const each of [skuId, ...skuIds]) await untilOpen(fewConnections, each);
  await expectAddedUp(skuId);
});

test('a gate is rebuilt on a Redis that is empty', async () => {
  const skuId = await newSku(system, 50n);
  const buyers = startBuyers(system, [skuId], { releaseShare: 0 });
  await untilSold(buyers, 10).finally(() => buyers.stop());
  await atRest(system, skuId);
  await system.restartRedis();
  await system.redis.flushall();
  const rebuilt = async () => {
    const answer = await copy.admin.rebuildStock({ skuId }).catch(fromClientError);
    if ('available' in answer) return answer.available;
    assert(['DEPENDENCY_DOWN', 'OUTCOME_UNKNOWN', 'STOCK_NOT_LOADED'].includes(answer.reason));
    return undefined;
  };
  let available: bigint | undefined;
  await eventually(async () => {
    available = await rebuilt();
    return available !== undefined;
  }, 'the gate is rebuilt');
  assert.equal(available, BigInt((await figuresOf(system, skuId)).available));
  await untilOpen(system, skuId);
  await expectAddedUp(skuId);
});

test('a gate of no SKU cannot be rebuilt, and none appears', async () => {
  const answer = await system.admin.rebuildStock({ skuId: 424_242n }).catch(fromClientError);
  assert('reason' in answer && answer.reason === 'NOT_FOUND');
  assert.deepEqual(await system.redis.keys('{sku:424242}*'), []);
});
