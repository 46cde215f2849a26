import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import { assertRecovered, assertUnharmed, type Phases, runTrial } from './harness.ts';
import { httpBuyers } from './http-buyers.ts';

// A copy that is frozen or killed harms what it has in hand; everybody else is served, five seconds later
// at most. One that is asked to stop harms nobody. Over HTTP, on real processes.

const skuId = 8_801n;
const perSecond = 40;
/** Until then the table allows everybody to notice. */
const graceMs = 5_000;

let system: System;

before(async () => {
  system = await startSystem({ name: 'frozen', edge: true, orders: 2, stocks: 2 });
  await system.createSku({ skuId, supplied: 1_000_000n });
});

after(() => system?.close());

let groups = 0;

/** Sends buyers through the edge while a bad thing is done to a copy of order. */
async function trial(bad: { on(): Promise<void>; off(): Promise<void> }): Promise<Phases> {
  groups += 1;
  const url = `http://127.0.0.1:${system.edge?.port}`;
  const firstUserId = BigInt(groups) * 1_000_000n;
  const label = `group-${groups}`;
  const buyers = httpBuyers({ url, label, perSecond, skuIds: [skuId], firstUserId });
  const phases = await runTrial({
    groups: { buyers },
    bad,
    beforeMs: 3_000,
    graceMs,
    duringMs: 5_000,
    recoveryMs: 2_000,
    afterMs: 3_000,
  });
  return phases.buyers;
}

function copy(): ServiceProcess {
  return system.orders[0] as ServiceProcess;
}

test('a frozen copy costs what it had in hand, and everybody else nothing', async () => {
  const { pid } = copy().process;
  const phases = await trial({
    on: async () => void process.kill(pid, 'SIGSTOP'),
    off: async () => void process.kill(pid, 'SIGCONT'),
  });
  assertUnharmed(phases, 'buyers while a copy is frozen');
  assertRecovered(phases, 'buyers after the copy went on');
  const { grace } = phases;
  // A batch or two were in hand; whoever came then may have met it for as long as it was not noticed.
  assert.ok(grace.made >= grace.sent * 0.8, JSON.stringify(grace));
  assert.ok(grace.otherMs.max <= 4_000, `unknown within the budget: ${JSON.stringify(grace)}`);
});

test('stops of order and stock copies under load lose no order', async () => {
  const [order, otherOrder] = system.orders;
  const [stock, otherStock] = system.stocks;
  const phases = await trial({
    async on() {
      for (const each of [order, stock, otherOrder, otherStock]) await each?.restart();
    },
    off: async () => {},
  });
  // All of it: what came while copies were stopped one after the other counts as its beginning.
  for (const [name, figures] of Object.entries(phases)) {
    assert.equal(figures.made, figures.sent, `${name}: ${JSON.stringify(figures)}`);
  }
});

test('a killed copy is used no more at once, and again after its return', async () => {
  const phases = await trial({
    on: () => copy().kill(),
    off: () => copy().restart(),
  });
  assertUnharmed(phases, 'buyers while a copy is away');
  assertRecovered(phases, 'buyers after the copy came back');
  assert.ok(phases.grace.made >= phases.grace.sent - 20, JSON.stringify(phases.grace));
});
