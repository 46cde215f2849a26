import { after, before, test } from 'node:test';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import { assertRecovered, assertUnharmed, runTrial } from './harness.ts';
import { cancellers, expiries, payers, refunds } from './payers.ts';

// One of two copies of payment is frozen, with whatever it had claimed: order voids sessions at the other
// one, which takes over polls, refunds and reports to order five seconds later at most.

const skuId = 8_901n;
const graceMs = 5_000;

let system: System;

before(async () => {
  system = await startSystem({ name: 'frozenpay', orders: 2, payments: 2 });
  await system.createSku({ skuId, supplied: 1_000_000n });
});

after(() => system?.close());

test('a frozen copy of payment keeps what it had in hand for a moment, and nothing else', async () => {
  const { pid } = (system.payments[1] as ServiceProcess).process;
  const options = { system, skuId };
  const phases = await runTrial({
    groups: {
      payers: payers({ ...options, perSecond: 5 }),
      cancellers: cancellers({ ...options, perSecond: 5 }),
      expiries: expiries({ ...options, perSecond: 4 }),
      refunds: refunds({ ...options, perSecond: 3 }),
    },
    bad: {
      on: async () => void process.kill(pid, 'SIGSTOP'),
      off: async () => void process.kill(pid, 'SIGCONT'),
    },
    beforeMs: 4_000,
    graceMs,
    duringMs: 5_000,
    recoveryMs: 1_000,
    afterMs: 3_000,
  });
  for (const [who, figures] of Object.entries(phases)) {
    assertUnharmed(figures, who);
    assertRecovered(figures, who);
  }
});
