import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { expectAllAtRest } from '../support/expect-at-rest.ts';
import { type LifeWorkload, setKnobs, startLifeWorkload } from '../support/life-workload.ts';
import { readProviderBooks } from '../support/provider-books.ts';
import { type System, startSystem } from '../support/system.ts';
import { runSeed } from '../support/workload.ts';

const skuIds = [1n, 2n, 3n];
const ordersPerProvider = 120;
let system: System;

before(async () => {
  system = await startSystem({
    name: 'lives',
    orders: 2,
    payments: 2,
    events: true,
    env: {
      SLUICE_ORDER_EXPIRY_SECONDS: '3',
      SLUICE_SETTLE_AGE_MS: '2000',
      SLUICE_PAYMENT_POLL_MS: '1000',
    },
  });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 2_000n, limitPerUser: 0 });
});
after(() => system?.close());

/** What the provider does while the lives go on. */
const providers: readonly [name: string, knobs: Readonly<Record<string, unknown>>][] = [
  ['behaves', {}],
  ['sends every webhook 20 times and out of order', { duplicates: 20, reorderMs: 1_500 }],
  ['sends no webhook at all', { silence: true }],
  [
    'does what it is asked and loses a third of its answers',
    { loseAnswers: 'drop', loseShare: 0.3 },
  ],
  ['takes another amount than it was asked for', { wrongAmount: 7 }],
  [
    'takes money of sessions that are closed, and settles refunds late',
    { payAfterClose: true, refundsPendingMs: 1_000 },
  ],
];

for (const [index, [name, knobs]] of providers.entries()) {
  test(`whole lives of orders with a provider that ${name}: every promise holds`, {
    timeout: 600_000,
  }, async () => {
    const seed = runSeed();
    console.log(`seed ${seed} (SLUICE_TEST_SEED)`);
    await setKnobs(system, knobs);
    const workload = startLifeWorkload({
      system,
      seed,
      label: `lives${index}`,
      skuIds,
      users: 40,
      concurrency: 12,
      restMs: 20,
      ordersMax: ordersPerProvider,
    });
    try {
      await eventually(() => workload.history.length >= ordersPerProvider, 'the orders are made', {
        withinMs: 300_000,
      });
    } finally {
      await workload.stop();
      await setKnobs(system, {});
    }
    expectEveryStepHappened(workload);
    await expectAllAtRest(system, workload.history);
  });
}

test('money really moved in all of this', () => {
  const { paidSessions, capturedMinor, keptMinor } = readProviderBooks(system);
  assert(paidSessions > 150, `${paidSessions} sessions were paid`);
  assert(keptMinor > 0n && keptMinor < capturedMinor, `${keptMinor} of ${capturedMinor} kept`);
});

/** A workload whose steps all failed would find every promise kept. */
function expectEveryStepHappened({ steps }: LifeWorkload): void {
  for (const what of ['cancel', 'create payment', 'pay', 'adjust'] as const) {
    const done = steps.filter((step) => step.what === what && step.outcome.kind === 'ok').length;
    assert(done > 1, `${what} succeeded ${done} times`);
  }
}
