import { after, before, test } from 'node:test';
import { killUnderLoad } from '../support/kill-under-load.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';

// The places that only refusals, cancellations, retries and resyncs come by.

const plenty = 1n;
const limited = 2n;
const soldOut = 3n;
/** Few users, so that the limit is met; one SKU that is sold out all the time. */
const workload = { skuIds: [plenty, limited, soldOut], users: 300, cancelShare: 0.3 };
/** Orders of two of these find the second one sold out behind the first, when a unit of it comes that all want. */
const contested = { ...workload, skuIds: [plenty, soldOut], users: 100_000 };
/** More than the bounds of one test together. */
const slow = { timeout: 420_000 };
/** What is left behind is asked for 2 s later; longer than a process takes to stop. */
const onceMoreMs = 10_000;
let system: System;

before(async () => {
  system = await startSystem({
    name: 'settling',
    orders: 2,
    stocks: 2,
    env: { SLUICE_SETTLE_AGE_MS: '2000' },
  });
  await system.createSku({ skuId: plenty, supplied: 1_000_000n });
  await system.createSku({ skuId: limited, supplied: 1_000_000n, limitPerUser: 2 });
  await system.createSku({ skuId: soldOut, supplied: 0n });
});

after(async () => await system?.close());

async function forgetRequests(): Promise<void> {
  const records = await system.redis.keys(`{sku:${plenty}}:req:*`);
  if (records.length > 0) await system.redis.del(records);
}

for (const place of ['stock.before_fence', 'stock.after_fence']) {
  test(`a stock process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.stocks as [ServiceProcess];
    let units = 0;
    const provoke = () => {
      const requestId = `${place} ${++units}`;
      return system.admin.adjustStock({ skuId: soldOut, delta: 1n, requestId });
    };
    await killUnderLoad({ system, victim, place, hit: 1, workload: contested, provoke });
  });
}

for (const place of ['stock.after_release_commit', 'stock.before_credit']) {
  test(`a stock process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.stocks as [ServiceProcess];
    await killUnderLoad({ system, victim, place, workload });
  });
}

for (const place of ['stock.resync_closed', 'stock.resync_read', 'stock.before_install']) {
  test(`a stock process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.stocks as [ServiceProcess];
    // The administrators' client talks to the victim.
    const provoke = () => system.admin.rebuildStock({ skuId: plenty });
    await killUnderLoad({ system, victim, place, hit: 1, workload, provoke });
  });
}

for (const place of ['order.before_look_up', 'order.after_adopt_read']) {
  test(`an order process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.orders as [ServiceProcess];
    await killUnderLoad({ system, victim, place, workload });
  });
}

for (const place of ['order.before_release', 'order.after_release']) {
  test(`an order process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.orders as [ServiceProcess];
    // A repetition whose record is lost gets an id of its own, meets its order, and gives that back.
    const provoke = forgetRequests;
    const repeating = { ...workload, repeatShare: 0.5 };
    await killUnderLoad({ system, victim, place, hit: 1, workload: repeating, provoke });
  });
}

for (const place of ['order.before_abort_insert', 'order.after_abort_insert']) {
  test(`an order process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim, other] = system.orders as [ServiceProcess, ServiceProcess];
    // The other one dies between hold and order; what it leaves behind only the victim can resolve.
    const deathOfOther = 'order.before_begin:kill@20';
    await other.restart({ SLUICE_FAILPOINTS: deathOfOther });
    let diedAt = Number.POSITIVE_INFINITY;
    // If the victim was asked before its failpoint was set, the other one dies once more.
    const provoke = async (): Promise<void> => {
      if (other.process.isRunning()) diedAt = Number.POSITIVE_INFINITY;
      else diedAt = Math.min(diedAt, performance.now());
      if (performance.now() - diedAt > onceMoreMs) await other.restartToDie(deathOfOther);
    };
    const afterKill = () => other.restart();
    await killUnderLoad({ system, victim, place, hit: 1, workload, provoke, afterKill });
  });
}
