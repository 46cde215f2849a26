import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createPacedProvider, type PacedProvider } from '../../services/payment/paced-provider.ts';
import { createPaymentMetrics } from '../../services/payment/payment-metrics.ts';
import type { PaymentProvider, RefundOrder, Session } from '../../services/payment/provider.ts';
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
  { callsPerSecond = 1_000, sessionsPerSecond = 10_000, sessionsInFlightMax = 4 } = {},
): PacedProvider {
  const log = createLog('test', 'silent');
  const options = { log, callsPerSecond, sessionsPerSecond, sessionsInFlightMax, metrics };
  const one = createPacedProvider(provider, options);
  started.push(one);
  return one;
}

const soon = (): Deadline => Deadline.after(20_000);
const amount = { currencyCode: 'EUR', minorUnits: 1n };
let ids = 0n;
const nextSession = () => {
  ids += 1n;
  return { paymentId: ids, orderId: 2n, expireTime: new Date(0), amount };
};
const nextRefund = (): RefundOrder => {
  ids += 1n;
  return { refundId: ids, reference: `ses_${ids}`, amount };
};

/** What a buyer does: takes a place, opens, leaves. */
async function open(
  paced: PacedProvider,
  session = nextSession(),
  deadline = soon(),
): Promise<Session> {
  const place = await paced.admit(deadline);
  try {
    return await paced.openSession(session, deadline, place);
  } finally {
    place.leave();
  }
}

const calls: readonly [string, (paced: PacedProvider) => Promise<unknown>][] = [
  ['open', (paced) => open(paced)],
  ['reopen', (paced) => paced.openSession(nextSession(), soon())],
  ['void', (paced) => paced.closeSession('ses_1', soon(), 'void')],
  ['expire', (paced) => paced.closeSession('ses_1', soon(), 'expire')],
  ['read', (paced) => paced.readSession('ses_1', soon(), 'read')],
  ['refund', (paced) => paced.refund(nextRefund(), soon())],
];

/** A provider that knows session `ses_1`. */
async function withSession() {
  const provider = createFakeProvider();
  await provider.openSession({ ...nextSession(), paymentId: 1n }, soon());
  provider.calls.clear();
  return provider;
}

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
async function outcomesOf(all: readonly Promise<unknown>[]): Promise<Record<string, number>> {
  const settled = await Promise.allSettled(all);
  const words = settled.map((one) =>
    one.status === 'fulfilled' ? 'done' : (one.reason as Refusal).reason,
  );
  return Object.fromEntries(
    Object.entries(Object.groupBy(words, (word) => word)).map(([word, some]) => [
      word,
      some?.length,
    ]),
  ) as Record<string, number>;
}

test('refunds start no faster than so many a second, and polls have as many for themselves', async () => {
  const provider = await withSession();
  const paced = pace(provider, { callsPerSecond: 20 });
  const at: Record<string, number[]> = {};
  provider.before = (method) => {
    at[method] ??= [];
    at[method].push(performance.now());
  };
  await Promise.all(
    Array.from({ length: 11 }, () => [
      paced.refund(nextRefund(), soon()),
      paced.readSession('ses_1', soon(), 'read'),
    ]).flat(),
  );
  for (const [method, times] of Object.entries(at)) {
    // Ten pauses of 50 ms; timers may fire a little early, and a slow machine only takes longer.
    const tookMs = (times.at(-1) as number) - (times[0] as number);
    assert(tookMs >= 450, `${method}: ${tookMs} ms`);
  }
  // Together they take as long as each kind does alone: of one after the other, the last would begin after the others' end.
  assert((at.readSession?.[5] as number) < (at.refund?.at(-1) as number));
});

test('sessions are opened a bounded number at once; who waits too long is told when to come again', async () => {
  const { provider, release, inFlightMax } = holding();
  const paced = pace(provider, { sessionsInFlightMax: 4 });
  const opening = Array.from({ length: 40 }, () => open(paced));
  const refused = await Promise.allSettled(opening.slice(4));
  for (const one of refused) {
    assert(one.status === 'rejected');
    assert.equal(one.reason.reason, 'OVERLOADED');
    assert(one.reason.retryAfterMs >= 1_000);
  }
  assert.equal(provider.calls.get('openSession'), 4);
  // Openings that hang hold up nothing of another purpose.
  const voided = paced.closeSession('ses_1', soon(), 'void').catch(() => 'refused');
  await eventually(() => provider.calls.get('closeSession') === 1, 'one is being voided');
  release();
  assert.deepEqual(await outcomesOf(opening.slice(0, 4)), { done: 4 });
  await voided;
  assert(inFlightMax() <= 5, `${inFlightMax()} at once`);
});

test('openings that hang do not take the places of those that do not', async () => {
  const provider = createFakeProvider();
  const held = Promise.withResolvers<void>();
  releases.push(held.resolve);
  const hanging = new Set<bigint | string>();
  provider.before = async (_method, id) => {
    if (hanging.has(id)) await held.promise;
  };
  const paced = pace(provider, { sessionsInFlightMax: 4 });
  const stuck = Array.from({ length: 4 }, () => {
    const session = nextSession();
    hanging.add(session.paymentId);
    return open(paced, session);
  });
  await eventually(
    () =>
      open(paced).then(
        () => true,
        () => false,
      ),
    'another one is opened',
  );
  held.resolve();
  assert.deepEqual(await outcomesOf(stuck), { done: 4 });
});

test('what waited past its deadline is never sent', async () => {
  const { provider, release } = holding();
  const paced = pace(provider, { sessionsInFlightMax: 1 });
  const first = open(paced);
  await assert.rejects(open(paced, nextSession(), Deadline.after(30)), { reason: 'OVERLOADED' });
  await assert.rejects(paced.readRefund(nextRefund(), Deadline.after(0)), { reason: 'OVERLOADED' });
  release();
  await first;
  assert.deepEqual([...provider.calls], [['openSession', 1]]);
});

test('a place that was not used is not counted towards the pace', async () => {
  const paced = pace(createFakeProvider(), { sessionsPerSecond: 1 });
  for (let count = 0; count < 5; count += 1) (await paced.admit(soon())).leave();
  await open(paced);
  await assert.rejects(open(paced), { reason: 'OVERLOADED' });
});

for (const [purpose, call] of calls) {
  test(`silence to ten calls in a row of the purpose "${purpose}" cuts it off, and none of the others`, async () => {
    const provider = await withSession();
    const paced = pace(provider);
    let isSilent = true;
    provider.before = () => {
      if (isSilent) throw new Refusal('OUTCOME_UNKNOWN');
    };
    // Each is about another payment: one that fails again and again says nothing about the provider.
    const fail = async (index: number): Promise<void> => {
      const closing = purpose === 'void' || purpose === 'expire' ? purpose : undefined;
      if (closing) await paced.closeSession(`ses_x${index}`, soon(), closing);
      else if (purpose === 'read') await paced.readSession(`ses_x${index}`, soon(), 'read');
      else await call(paced);
    };
    for (let index = 0; index < 10; index += 1) {
      await assert.rejects(fail(index), { reason: 'OUTCOME_UNKNOWN' });
    }
    const before = [...provider.calls.values()].reduce((sum, count) => sum + count, 0);
    await assert.rejects(fail(10), { reason: 'DEPENDENCY_DOWN' });
    const after = [...provider.calls.values()].reduce((sum, count) => sum + count, 0);
    assert.equal(after, before);
    isSilent = false;
    for (const [other, otherCall] of calls) {
      if (other !== purpose) await otherCall(paced);
    }
  });
}

const answers: readonly [string, () => Refusal][] = [
  ['refuses for good', () => new Refusal('INVALID_REQUEST', 'no')],
  ['answers about one payment', () => new Refusal('OUTCOME_UNKNOWN', 'no', { answered: true })],
  ['refuses our key', () => new Refusal('DEPENDENCY_DOWN', 'no', { answered: true })],
];
for (const [what, refusal] of answers) {
  test(`what the provider ${what} says nothing against it`, async () => {
    const provider = createFakeProvider();
    const paced = pace(provider);
    provider.before = () => {
      throw refusal();
    };
    const { reason } = refusal();
    for (let index = 0; index < 25; index += 1) await assert.rejects(open(paced), { reason });
    assert.equal(provider.calls.get('openSession'), 25);
  });
}

test('payments that the provider is silent about do not cut off those that it answers', async () => {
  const provider = createFakeProvider();
  const paced = pace(provider, { sessionsInFlightMax: 64 });
  const held = Promise.withResolvers<void>();
  releases.push(held.resolve);
  const silent = new Set<bigint | string>();
  provider.before = async (_method, id) => {
    if (!silent.has(id)) return;
    await held.promise;
    throw new Refusal('OUTCOME_UNKNOWN');
  };
  const stuck = Array.from({ length: 20 }, () => {
    const session = nextSession();
    silent.add(session.paymentId);
    return open(paced, session);
  });
  for (let index = 0; index < 20; index += 1) await open(paced);
  // Their time is over at one moment: twenty failures in a row.
  held.resolve();
  assert.deepEqual(await outcomesOf(stuck), { OUTCOME_UNKNOWN: 20 });
  await open(paced);
});

test('a payment that fails again and again is one failure', async () => {
  const provider = createFakeProvider();
  const paced = pace(provider);
  const session = nextSession();
  provider.before = (_method, id) => {
    if (id === session.paymentId) throw new Refusal('OUTCOME_UNKNOWN');
  };
  for (let index = 0; index < 30; index += 1) {
    await assert.rejects(open(paced, session), { reason: 'OUTCOME_UNKNOWN' });
  }
  await open(paced);
});

test('callers with hardly any time left do not cut off those who have it', async () => {
  const provider = createFakeProvider();
  const paced = pace(provider, { sessionsInFlightMax: 64 });
  let begun = 0;
  provider.before = async () => {
    begun += 1;
    await sleep(60);
    throw new Refusal('OUTCOME_UNKNOWN');
  };
  await eventually(async () => {
    const hasty = Array.from({ length: 30 }, () => open(paced, nextSession(), Deadline.after(40)));
    assert.equal((await outcomesOf(hasty)).done, undefined);
    // Where the machine pauses their time is over before they are sent: then others come.
    return begun >= 30;
  }, 'enough were sent');
  provider.before = () => undefined;
  await open(paced);
});

/** A provider that takes so many openings in a second, as real ones do: a second's worth may come at once. */
function limited(perSecond: number, retryAfterMs = 0) {
  const provider = createFakeProvider();
  let tokens = perSecond;
  let atMs = performance.now();
  let turnedAway = 0;
  let capacity = perSecond;
  provider.before = () => {
    const nowMs = performance.now();
    // Nobody offers anything while the machine pauses.
    capacity += (Math.min(100, nowMs - atMs) / 1_000) * perSecond;
    tokens = Math.min(perSecond, tokens + ((nowMs - atMs) / 1_000) * perSecond);
    atMs = nowMs;
    if (tokens < 1) {
      turnedAway += 1;
      throw new Refusal('OVERLOADED', 'too fast', { answered: true, retryAfterMs });
    }
    tokens -= 1;
  };
  return { provider, turnedAway: () => turnedAway, capacity: () => capacity };
}

/**
 * Offers openings at a steady pace for some time; answers what they came to, what each refusal took, and for how long this
 * process stood still at most: nobody can be told anything meanwhile.
 */
async function offer(paced: PacedProvider, perSecond: number, seconds: number) {
  const made: Promise<unknown>[] = [];
  const refusedMs: number[] = [];
  const beganMs = performance.now();
  let lookedMs = beganMs;
  let stoodStillMs = 0;
  const looking = setInterval(() => {
    stoodStillMs = Math.max(stoodStillMs, performance.now() - lookedMs);
    lookedMs = performance.now();
  }, 5);
  for (let sent = 0; performance.now() - beganMs < seconds * 1_000; await sleep(5)) {
    const due = Math.floor(((performance.now() - beganMs) / 1_000) * perSecond);
    for (; sent < due; sent += 1) {
      const sentMs = performance.now();
      const one = open(paced, nextSession(), Deadline.after(3_500));
      one.catch(() => refusedMs.push(performance.now() - sentMs));
      made.push(one);
    }
  }
  const outcomes = await outcomesOf(made);
  clearInterval(looking);
  return { outcomes, refusedMs, stoodStillMs };
}

test('of 120 openings a second a provider that takes 25 makes nearly 25, and the others are refused at once', async () => {
  const { provider, turnedAway, capacity } = limited(25);
  const paced = pace(provider, { sessionsInFlightMax: 64 });
  const { outcomes, refusedMs, stoodStillMs } = await offer(paced, 120, 6);
  const done = outcomes.done ?? 0;
  assert(done >= capacity() * 0.8, `${done} opened of ${capacity()}`);
  assert.deepEqual(Object.keys(outcomes).sort(), ['OVERLOADED', 'done']);
  const slowest = refusedMs.toSorted((a, b) => a - b)[Math.floor(refusedMs.length * 0.95)] ?? 0;
  // They have 3.5 s, and are told long before those are over.
  assert(slowest - stoodStillMs < 1_750, `refused after ${slowest} ms`);
  const refused = outcomes.OVERLOADED ?? 0;
  assert(turnedAway() < refused * 0.3, `${turnedAway()} of ${refused} were turned away by it`);
});

test('a pace that was lowered rises again once the provider takes more, and Retry-After is honoured', async () => {
  const { provider, turnedAway } = limited(5, 1_000);
  const paced = pace(provider);
  await offer(paced, 60, 1);
  assert(turnedAway() > 0);
  const before = turnedAway();
  // Within the second that it asked for nobody is sent, and everybody is told for how long.
  await assert.rejects(open(paced), (error: Refusal) => {
    return error.reason === 'OVERLOADED' && error.retryAfterMs >= 1_000;
  });
  assert.equal(turnedAway(), before);
  provider.before = () => undefined;
  await eventually(
    async () => ((await offer(paced, 40, 0.5)).outcomes.done ?? 0) >= 10,
    'it rises',
  );
});

test('calls of one purpose that are turned away leave the pace of the others as it was', async () => {
  const provider = await withSession();
  const paced = pace(provider);
  provider.before = (method) => {
    if (method === 'openSession') {
      throw new Refusal('OVERLOADED', 'lock_timeout', { answered: true, retryAfterMs: 60_000 });
    }
  };
  await assert.rejects(open(paced), { reason: 'OVERLOADED' });
  await assert.rejects(open(paced), { reason: 'OVERLOADED' });
  assert.equal(provider.calls.get('openSession'), 1);
  for (let count = 0; count < 20; count += 1) {
    await paced.closeSession('ses_1', soon(), 'void');
    await paced.closeSession('ses_1', soon(), 'expire');
    await paced.readSession('ses_1', soon(), 'read');
    await paced.refund(nextRefund(), soon());
  }
});
