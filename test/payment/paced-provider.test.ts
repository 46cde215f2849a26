import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createPacedProvider, type PacedProvider } from '../../services/payment/paced-provider.ts';
import { createPaymentMetrics } from '../../services/payment/payment-metrics.ts';
import type { PaymentProvider, RefundOrder } from '../../services/payment/provider.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { createFakeProvider } from './fake-provider.ts';

const metrics = createPaymentMetrics(createMetrics('test'));
const started: PacedProvider[] = [];
const releases: (() => void)[] = [];
after(async () => {
  // Also what a failed test left held: a close waits for it.
  for (const release of releases) release();
  await Promise.all(started.map((one) => one.close()));
});

function pace(
  provider: PaymentProvider,
  { callsPerSecond = 1_000, sessionsInFlightMax = 4 } = {},
): PacedProvider {
  const log = createLog('test', 'silent');
  const one = createPacedProvider(provider, { log, callsPerSecond, sessionsInFlightMax, metrics });
  started.push(one);
  return one;
}

const soon = (): Deadline => Deadline.after(20_000);
const order: RefundOrder = {
  ...{ refundId: 1n, reference: 'ses_1' },
  amount: { currencyCode: 'EUR', minorUnits: 1n },
};
const session = {
  ...{ paymentId: 1n, orderId: 2n, expireTime: new Date(0) },
  amount: { currencyCode: 'EUR', minorUnits: 1n },
};

/** A provider whose calls wait until they are let go. */
function holding() {
  const provider = createFakeProvider();
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  releases.push(release);
  let inFlight = 0;
  let inFlightMax = 0;
  provider.before = async () => {
    inFlight += 1;
    inFlightMax = Math.max(inFlightMax, inFlight);
    await held;
    inFlight -= 1;
  };
  return { provider, release, inFlightMax: () => inFlightMax };
}

/** How often each reason, or success, came out. */
async function outcomesOf(calls: readonly Promise<unknown>[]): Promise<Record<string, number>> {
  const settled = await Promise.allSettled(calls);
  const words = settled.map((one) =>
    one.status === 'fulfilled' ? 'done' : (one.reason as Refusal).reason,
  );
  return Object.fromEntries(
    Object.entries(Object.groupBy(words, (word) => word)).map(([word, all]) => [word, all?.length]),
  ) as Record<string, number>;
}

test('asking and refunding start no faster, together, than so many a second', async () => {
  const paced = pace(createFakeProvider(), { callsPerSecond: 50 });
  const began = performance.now();
  await Promise.all(
    Array.from({ length: 11 }, (_, index) =>
      index % 2 ? paced.refund(order, soon()) : paced.readRefund(order, soon()),
    ),
  );
  // Ten pauses of 20 ms; timers may fire a little early, and a slow machine only takes longer.
  const tookMs = performance.now() - began;
  assert(tookMs >= 180, `${tookMs} ms`);
});

test('a bounded number of paced calls waits, and one more is OVERLOADED at once', async () => {
  const { provider, release, inFlightMax } = holding();
  const paced = pace(provider);
  const calls = Array.from({ length: 300 }, () => paced.readRefund(order, soon()));
  await Promise.race(calls).catch((error: Refusal) => assert.equal(error.reason, 'OVERLOADED'));
  release();
  const outcomes = await outcomesOf(calls);
  assert((outcomes.OVERLOADED ?? 0) > 0 && (outcomes.done ?? 0) >= 200, JSON.stringify(outcomes));
  assert(inFlightMax() <= 16, `${inFlightMax()} at once`);
});

test('sessions are opened a bounded number at once, and those that wait do not hold up voiding', async () => {
  const { provider, release, inFlightMax } = holding();
  const paced = pace(provider, { sessionsInFlightMax: 4 });
  const calls = Array.from({ length: 40 }, () => paced.openSession(session, soon()));
  const voided = paced.closeSession('ses_1', soon());
  await eventually(() => provider.calls.get('closeSession') === 1, 'one is being voided');
  assert.equal(provider.calls.get('openSession'), 4);
  release();
  assert.deepEqual(await outcomesOf(calls), { done: 40 });
  await voided;
  assert(inFlightMax() <= 5, `${inFlightMax()} at once`);
});

test('what waited past its deadline is never sent', async () => {
  const { provider, release } = holding();
  const paced = pace(provider, { sessionsInFlightMax: 1 });
  const first = paced.openSession(session, soon());
  await assert.rejects(paced.openSession(session, Deadline.after(30)), { reason: 'OVERLOADED' });
  await assert.rejects(paced.readRefund(order, Deadline.after(0)), { reason: 'OVERLOADED' });
  release();
  await first;
  assert.deepEqual([...provider.calls], [['openSession', 1]]);
});

test('a class of calls that fails ten times in a row is cut off, and the others go on', async () => {
  const provider = createFakeProvider();
  const paced = pace(provider);
  provider.before = (method) => {
    if (method === 'openSession') throw new Refusal('OUTCOME_UNKNOWN');
  };
  const open = () => paced.openSession(session, soon());
  for (let index = 0; index < 10; index += 1) {
    await assert.rejects(open(), { reason: 'OUTCOME_UNKNOWN' });
  }
  await assert.rejects(open(), { reason: 'DEPENDENCY_DOWN' });
  assert.equal(provider.calls.get('openSession'), 10);
  await paced.refund(order, soon());
});

test('what the provider refuses for good says nothing against it', async () => {
  const provider = createFakeProvider();
  const paced = pace(provider);
  provider.before = () => {
    throw new Refusal('INVALID_REQUEST');
  };
  for (let index = 0; index < 25; index += 1) {
    await assert.rejects(paced.openSession(session, soon()), { reason: 'INVALID_REQUEST' });
  }
  assert.equal(provider.calls.get('openSession'), 25);
});

test('callers with hardly any time left do not cut off those who have it', async () => {
  const provider = createFakeProvider();
  const paced = pace(provider, { sessionsInFlightMax: 64 });
  let begun = 0;
  let ended = 0;
  provider.before = async () => {
    begun += 1;
    await new Promise((resolve) => setTimeout(resolve, 60));
  };
  provider.after = () => {
    ended += 1;
    throw new Refusal('OUTCOME_UNKNOWN');
  };
  await eventually(async () => {
    const hasty = Array.from({ length: 30 }, () => paced.openSession(session, Deadline.after(40)));
    assert.equal((await outcomesOf(hasty)).done, undefined);
    // Where the machine pauses their time is over before they are sent: then others come.
    return begun >= 30;
  }, 'enough were sent');
  // Their callers were answered at the deadline; the provider fails them all a little later.
  await eventually(() => ended === begun, 'all have failed');
  provider.before = () => undefined;
  provider.after = () => undefined;
  await paced.openSession(session, soon());
});
