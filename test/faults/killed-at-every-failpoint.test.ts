import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { expectNoBreaches } from '../support/invariants.ts';
import { type ServiceProcess, type System, startSystem } from '../support/system.ts';
import { runSeed, startWorkload, type Workload } from '../support/workload.ts';

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

async function killAt(
  victim: ServiceProcess,
  place: string,
  afterKill = async (): Promise<void> => undefined,
): Promise<void> {
  const seed = runSeed();
  console.log(`${place}: seed ${seed} (SLUICE_TEST_SEED)`);
  const workload = startWorkload({
    clients: () => [system.order(0), system.order(1)],
    seed,
    skuIds,
    users: 100_000,
    concurrency: 16,
    restMs: 20,
  });
  // The third hit, so that the process has begun to work and others are under way.
  await victim.restart({ SLUICE_FAILPOINTS: `${place}:kill@3` });
  const exit = await Promise.race([
    victim.process.exited,
    eventually(() => !victim.process.isRunning(), `${place} is reached`).then(
      () => victim.process.exited,
    ),
  ]);
  assert.equal(exit.signal, 'SIGKILL');
  await afterKill();
  await victim.restart();
  const done = oks(workload);
  await eventually(() => oks(workload) >= done + 50, 'orders are made again');
  await workload.stop();
  await expectNoBreaches(system, workload.history);
}

function oks({ history }: Workload): number {
  return history.filter(({ outcomes }) => outcomes.some(({ kind }) => kind === 'ok')).length;
}

for (const place of orderPlaces) {
  test(`an order process killed at ${place} under load breaks no promise`, async () => {
    await killAt(system.orders[0] as ServiceProcess, place);
  });
}

for (const place of stockPlaces) {
  test(`a stock process killed at ${place} under load breaks no promise`, async () => {
    await killAt(system.stocks[0] as ServiceProcess, place);
  });
}

for (const place of sweepPlaces) {
  test(`a stock process killed at ${place} under load breaks no promise`, async () => {
    const [victim, other] = system.stocks as [ServiceProcess, ServiceProcess];
    await other.process.stop();
    await killAt(victim, place, () => other.restart());
  });
}
