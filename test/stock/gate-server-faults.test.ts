import assert from 'node:assert/strict';
import { after, afterEach, test } from 'node:test';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import {
  breakRow,
  newSku,
  reservation,
  reserve,
  type StockClients,
  startStockSystem,
  untilOpen,
} from './support.ts';

// What a process says of itself, and does, while its Redis must not be used or its gates are not installed.

const system = await startStockSystem('gateserver');
after(() => system.close());
afterEach(async () => {
  failpoints.clear();
  await system.redis.config('SET', 'maxmemory-policy', 'noeviction');
  await system.redis.call('REPLICAOF', 'NO', 'ONE');
});

async function readiness({ metricsPort }: StockClients): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${metricsPort}/readyz`);
  return `${response.status} ${await response.text()}`;
}

async function untilReady(copy: StockClients): Promise<void> {
  await eventually(async () => (await readiness(copy)).startsWith('200'), 'the process is ready');
}

async function untilWaitingFor(copy: StockClients, what: RegExp): Promise<void> {
  let said = '';
  await eventually(async () => {
    said = await readiness(copy);
    return said.startsWith('503') && what.test(said);
  }, `the process waits for ${what}`).catch((error) => assert.fail(`${error}; it says ${said}`));
}

/** A reservation that surely did nothing, or an answer that it was made. */
async function told(skuId: bigint): Promise<string> {
  return await reserve(system, reservation([skuId])).then(
    ({ $case, value }) => ($case === 'refused' ? value.message : $case),
    (error) => String(error.details),
  );
}

test('a Redis that may drop a part of a gate refuses the start, with what to do about it', async () => {
  await system.redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
  await assert.rejects(system.startCopy(), (error: Error) => {
    assert.equal(error.name, 'ConfigError');
    assert.match(
      error.message,
      /SLUICE_REDIS_URL: .*maxmemory-policy is allkeys-lru: set it to noeviction/,
    );
    return true;
  });
});

test('a policy that is changed while the process runs stops the sale until it is changed back', async () => {
  const skuId = await newSku(system, 10n);
  await untilReady(system.first);
  await system.redis.config('SET', 'maxmemory-policy', 'volatile-lru');
  await untilWaitingFor(system.first, /maxmemory-policy is volatile-lru: set it to noeviction/);
  assert.notEqual(await told(skuId), 'reserved');
  assert.equal(await system.redis.get(`{sku:${skuId}}:avail`), '10', 'nothing was taken');
  await system.redis.config('SET', 'maxmemory-policy', 'noeviction');
  await untilReady(system.first);
  await eventually(async () => (await told(skuId)) === 'reserved', 'the sale goes on');
});

test('a Redis that becomes a replica makes the process unready until it is a master again', async () => {
  const skuId = await newSku(system, 10n);
  await untilReady(system.first);
  await system.redis.call('REPLICAOF', '127.0.0.1', '1');
  await untilWaitingFor(system.first, /is a replica/);
  assert.notEqual(await told(skuId), 'reserved');
  await system.redis.call('REPLICAOF', 'NO', 'ONE');
  await untilReady(system.first);
  await untilOpen(system, skuId);
  await eventually(async () => (await told(skuId)) === 'reserved', 'the sale goes on');
});

test('a process is not ready before the gates of the SKUs on sale were installed once', async () => {
  const skuId = await newSku(system, 10n);
  const { promise: installed, resolve: install } = Promise.withResolvers<void>();
  failpoints.set('stock.resync_closed', () => installed);
  await system.redis.flushall();
  const copy = await system.startCopy();
  try {
    await untilWaitingFor(copy, /the gates of the SKUs on sale/);
    await untilWaitingFor(system.first, /an open gate/);
  } finally {
    install();
  }
  await untilReady(copy);
  await untilReady(system.first);
  await untilOpen(copy, skuId);
  assert.equal((await reserve(copy, reservation([skuId]))).$case, 'reserved');
});

test('a gate that cannot be installed keeps no process from serving the others', async () => {
  const [good, bad] = [await newSku(system, 10n), await newSku(system, 10n)];
  await breakRow(system.pool, 'UPDATE skus SET sold = sold + 1 WHERE sku_id = ?', [bad]);
  await system.redis.flushall();
  const copy = await system.startCopy();
  await untilWaitingFor(copy, /the gates of the SKUs on sale/);
  await untilReady(copy);
  assert.equal((await system.admin.getStockLayers({ skuId: bad })).gate?.loaded, false);
  assert.equal((await reserve(copy, reservation([good]))).$case, 'reserved');
  await breakRow(system.pool, 'UPDATE skus SET sold = sold - 1 WHERE sku_id = ?', [bad]);
  await untilOpen(copy, bad);
});
