import { after, before, test } from 'node:test';
import { killUnderLoad } from '../support/kill-under-load.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';

/** Every named place of the order path, in its order (DESIGN section 4), and of the settling loops. */
const orderPlaces = [
  'order.before_reserve',
  'order.after_reserve',
  'order.before_begin',
  'order.after_begin',
  'order.after_insert',
  'order.before_commit',
  'order.after_commit',
  'order.before_reply',
  'relay.before_publish',
  'relay.after_publish',
  'relay.after_delete',
];
const stockPlaces = [
  'stock.after_ask',
  'stock.before_gate',
  'stock.after_gate',
  'stock.before_post',
  'stock.in_post',
  'stock.before_post_commit',
  'stock.after_post_commit',
  'stock.before_reply',
];
/** Only one process sweeps at a time, so these are reached only by the one that has the claim. */
const sweepPlaces = [
  'stock.before_watermark',
  'stock.after_watermark',
  'stock.before_resolve',
  'stock.after_resolve',
];

const skuIds = [1n, 2n, 3n];
let system: System;

before(async () => {
  system = await startSystem({
    name: 'killed',
    orders: 2,
    stocks: 2,
    env: { SLUICE_SETTLE_AGE_MS: '2000' },
  });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 1_000_000n });
});

after(async () => await system?.close());

/** More than the bounds of one test together. */
const slow = { timeout: 420_000 };
const workload = { skuIds, users: 100_000 };

for (const place of orderPlaces) {
  test(`an order process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.orders as [ServiceProcess];
    await killUnderLoad({ system, victim, place, workload });
  });
}

for (const place of stockPlaces) {
  test(`a stock process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim] = system.stocks as [ServiceProcess];
    await killUnderLoad({ system, victim, place, workload });
  });
}

for (const place of sweepPlaces) {
  test(`a stock process killed at ${place} under load breaks no promise`, slow, async () => {
    const [victim, other] = system.stocks as [ServiceProcess, ServiceProcess];
    await other.process.stop();
    await killUnderLoad({ system, victim, place, workload, afterKill: () => other.restart() });
  });
}
