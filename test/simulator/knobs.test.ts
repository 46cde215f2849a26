import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { ReplayedRefusal } from '../../services/payment/provider-refusal.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import type { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import {
  type Received,
  type Receiver,
  type RunningSimulator,
  startReceiver,
  startSimulator,
} from './support.ts';

let simulator: RunningSimulator;
let receiver: Receiver;
/** Added to the clock, so that nothing waits for real hours. */
let aheadMs = 0;
let ids = 1_000n;

before(async () => {
  receiver = await startReceiver();
  simulator = await startSimulator(
    { SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url },
    { now: () => Date.now() + aheadMs },
  );
});
after(async () => {
  await simulator.stop();
  await receiver.stop();
});
afterEach(async () => {
  receiver.status = 200;
  await simulator.knobs({});
  await eventually(async () => (await waiting()) === 0, 'no webhook waits');
  receiver.received.length = 0;
});

const soon = (): Deadline => Deadline.after(10_000);
const waiting = async (): Promise<number> =>
  (await simulator.call('GET', '/v1/webhooks')).body.waiting;

function newSession() {
  ids += 1n;
  return {
    paymentId: ids,
    orderId: 7n,
    amount: { currencyCode: 'USD', minorUnits: 1_000n },
    expireTime: new Date(Date.now() + aheadMs + 60_000),
  };
}

const open = async (): Promise<string> =>
  (await simulator.provider.openSession(newSession(), soon())).reference;
const pay = (reference: string) => simulator.call('POST', `/v1/sessions/${reference}/pay`);
const read = (reference: string) => simulator.provider.readSession(reference, soon());

async function openAndPay(): Promise<string> {
  const reference = await open();
  await pay(reference);
  return reference;
}

function refundOf(reference: string, minorUnits = 100n) {
  ids += 1n;
  return { refundId: ids, reference, amount: { currencyCode: 'USD', minorUnits } };
}

test('duplicates: every webhook comes as often as the knob says', async () => {
  await simulator.knobs({ duplicates: 100 });
  await openAndPay();
  await eventually(() => receiver.received.length === 100, 'all copies arrive');
  assert.equal(new Set(receiver.received.map(({ event }) => event.id)).size, 1);
  await eventually(async () => (await waiting()) === 0, 'all are accepted');
  assert.equal(receiver.received.length, 100);
});

test('delayMs: webhooks wait, and are signed for the time when they are sent', async () => {
  await simulator.knobs({ delayMs: 86_400_000 });
  await openAndPay();
  // Another one, without delay, passes it: the sender had its chance to send both.
  await simulator.knobs({});
  await openAndPay();
  await eventually(() => receiver.received.length === 1, 'the second arrives');
  await eventually(async () => (await waiting()) === 1, 'the second is accepted');
  assert.equal(receiver.received.length, 1);
  aheadMs += 86_400_000;
  await eventually(() => receiver.received.length === 2, 'the first arrives a day later');
  const late = receiver.received[1];
  assert(late);
  const now = new Date(Date.now() + aheadMs);
  assert.equal(simulator.provider.readWebhook(late.body, late.headers, now).type, 'session.paid');
});

test('reorderMs: webhooks arrive in another order than things happened', async () => {
  // They wait for so long that it does not matter how fast the sessions are paid.
  await simulator.knobs({ reorderMs: 86_400_000 });
  const references: string[] = [];
  for (let count = 0; count < 30; count += 1) references.push(await openAndPay());
  aheadMs += 43_200_000;
  await eventually(() => receiver.received.length > 0, 'those of the first half arrive');
  aheadMs += 43_200_000;
  await eventually(() => receiver.received.length === 30, 'all arrive');
  const arrived = receiver.received.map(({ event }) => event.data.session.id);
  assert.deepEqual(new Set(arrived), new Set(references));
  // One chance in 2^25 that the first half of the time has the first of them.
  assert.notDeepEqual(arrived, references);
});

test('wrongAmount and wrongCurrency: something else is captured, and everybody is told so', async () => {
  const captured = async () => {
    const state = await read(await openAndPay());
    assert(state.kind === 'paid');
    return state.captured;
  };
  await simulator.knobs({ wrongAmount: -1 });
  assert.deepEqual(await captured(), { currencyCode: 'USD', minorUnits: 999n });
  await simulator.knobs({ wrongAmount: 5 });
  assert.deepEqual(await captured(), { currencyCode: 'USD', minorUnits: 1_005n });
  await simulator.knobs({ wrongAmount: -1_000_000 });
  assert.deepEqual(await captured(), { currencyCode: 'USD', minorUnits: 1n });
  await simulator.knobs({ wrongCurrency: 'EUR' });
  assert.deepEqual(await captured(), { currencyCode: 'EUR', minorUnits: 1_000n });
  await eventually(() => receiver.received.length === 4, 'all are told');
  const told = receiver.received.map(({ event }) => event.data.session.captured.minorUnits).sort();
  assert.deepEqual(told, ['1', '1000', '1005', '999']);
});

test('wrongSignature: nobody accepts the webhook, until it comes signed', async () => {
  receiver.status = 401;
  await simulator.knobs({ wrongSignature: true });
  await openAndPay();
  await eventually(() => receiver.received.length > 0, 'a delivery arrives');
  const false_ = receiver.received[0];
  assert(false_);
  const readNow = ({ body, headers }: Received) =>
    simulator.provider.readWebhook(body, headers, new Date(Date.now() + aheadMs));
  assert.throws(() => readNow(false_), { reason: 'UNAUTHENTICATED' });
  await simulator.knobs({});
  let genuine: ReturnType<typeof readNow> | undefined;
  await eventually(() => {
    try {
      genuine = readNow(receiver.received.at(-1) as Received);
    } catch (error) {
      assert.equal((error as Refusal).reason, 'UNAUTHENTICATED');
    }
    return genuine !== undefined;
  }, 'it comes signed');
  assert.equal(genuine?.eventId, false_.event.id);
  // Accepted only now: a delivery with the false signature may have been under way.
  receiver.status = 200;
  await eventually(async () => (await waiting()) === 0, 'a delivery is accepted');
});

test('silence: no webhook of what happens then, ever; who asks is told', async () => {
  await simulator.knobs({ silence: true });
  const silent = await openAndPay();
  await simulator.knobs({});
  const told = await openAndPay();
  await eventually(() => receiver.received.length > 0, 'the second is told');
  await eventually(async () => (await waiting()) === 0, 'it is accepted');
  assert.deepEqual(
    receiver.received.map(({ event }) => event.data.session.id),
    [told],
  );
  assert.equal((await read(silent)).kind, 'paid');
});

for (const loseAnswers of ['drop', 'hang'] as const) {
  test(`loseAnswers ${loseAnswers}: what was asked is done although nothing is answered`, async () => {
    const paid = await openAndPay();
    const request = newSession();
    const order = refundOf(paid);
    const toClose = await open();
    await simulator.knobs({ loseAnswers });
    const { provider } = simulator;
    // Long enough for each to arrive, whatever pauses; so they wait together.
    const within = Deadline.after(loseAnswers === 'hang' ? 5_000 : 10_000);
    const unknown = { reason: 'OUTCOME_UNKNOWN' };
    await Promise.all([
      assert.rejects(provider.openSession(request, within), unknown),
      assert.rejects(provider.refund(order, within), unknown),
      assert.rejects(provider.closeSession(toClose, within), unknown),
      assert.rejects(provider.readSession(paid, within), unknown),
    ]);
    await simulator.knobs({});
    assert.deepEqual(await read(toClose), { kind: 'closed' });
    const refund = await provider.readRefund(order, soon());
    assert.equal(refund?.kind, 'succeeded');
    assert.deepEqual(await provider.refund(order, soon()), refund);
    // The session exists: another amount under its key is a contradiction.
    const other = { ...request, amount: { currencyCode: 'USD', minorUnits: 1n } };
    await assert.rejects(provider.openSession(other, soon()), { reason: 'INVALID_REQUEST' });
  });
}

test('loseShare: with 0 no answer is lost', async () => {
  await simulator.knobs({ loseAnswers: 'drop', loseShare: 0 });
  for (let count = 0; count < 20; count += 1) await open();
});

test('refuseRefunds: a refund fails for good, and its amount can be refunded anew', async () => {
  const reference = await openAndPay();
  await simulator.knobs({ refuseRefunds: true });
  const order = refundOf(reference, 1_000n);
  const failed = { kind: 'failed', failure: 'the bank refused it' };
  assert.deepEqual(await simulator.provider.refund(order, soon()), failed);
  await simulator.knobs({});
  assert.deepEqual(await simulator.provider.refund(order, soon()), failed);
  const again = await simulator.provider.refund(refundOf(reference, 1_000n), soon());
  assert.equal(again.kind, 'succeeded');
});

test('refundsPendingMs: a refund is pending first, and settled and told later', async () => {
  const reference = await openAndPay();
  await simulator.knobs({ refundsPendingMs: 3_600_000 });
  const order = refundOf(reference);
  const pending = await simulator.provider.refund(order, soon());
  assert.equal(pending.kind, 'pending');
  assert.deepEqual(await simulator.provider.readRefund(order, soon()), pending);
  aheadMs += 3_600_000;
  await eventually(
    () => receiver.received.some(({ event }) => event.type === 'refund.succeeded'),
    'the success is told',
  );
  const settled = await simulator.provider.readRefund(order, soon());
  assert.equal(settled?.kind, 'succeeded');
});

test('slowMs: a caller that does not wait so long learns nothing, and what it asked is done later', async () => {
  const reference = await open();
  // The caller waits long enough for its call to arrive, also where the machine pauses.
  await simulator.knobs({ slowMs: 5_000 });
  await assert.rejects(simulator.provider.closeSession(reference, Deadline.after(3_000)), {
    reason: 'OUTCOME_UNKNOWN',
  });
  await simulator.knobs({});
  await eventually(async () => (await read(reference)).kind === 'closed', 'it is done late');
});

test('payAfterClose: a closed session is paid late, and told as paid after closed', async () => {
  const reference = await open();
  await simulator.provider.closeSession(reference, soon());
  assert.equal((await pay(reference)).status, 409);
  await simulator.knobs({ payAfterClose: true });
  assert.equal((await pay(reference)).status, 200);
  assert.equal((await read(reference)).kind, 'paid');
  await eventually(() => receiver.received.length === 2, 'both are told');
  assert.deepEqual(receiver.received.map(({ event }) => event.type).sort(), [
    'session.closed',
    'session.paid',
  ]);
});

test('payAfterClose opens nothing again: a closed session can be paid late, and not fail', async () => {
  const reference = await open();
  await simulator.provider.closeSession(reference, soon());
  await simulator.knobs({ payAfterClose: true });
  assert.equal((await simulator.call('POST', `/v1/sessions/${reference}/fail`)).status, 409);
  await simulator.knobs({});
  assert.deepEqual(await read(reference), { kind: 'closed' });
  assert.equal((await pay(reference)).status, 409);
});

for (const [refuseDebits, end] of [
  [false, 'paid'],
  [true, 'failed'],
] as const) {
  test(`processingMs: a payment can be neither closed nor paid again meanwhile, and is ${end} in the end`, async () => {
    await simulator.knobs({ processingMs: 86_400_000 });
    const reference = await openAndPay();
    const { provider } = simulator;
    assert.deepEqual(await read(reference), { kind: 'processing' });
    assert.deepEqual(await provider.closeSession(reference, soon()), { kind: 'processing' });
    assert.equal((await pay(reference)).body.status, 'processing');
    assert.equal((await simulator.call('POST', `/v1/sessions/${reference}/fail`)).status, 409);
    // The knob decides about new payments; those under way stay so, and do not run out with their session.
    await simulator.knobs({ refuseDebits });
    assert.deepEqual(await read(reference), { kind: 'processing' });
    aheadMs += 86_400_000;
    await eventually(async () => (await read(reference)).kind !== 'processing', 'it is decided');
    // The time of the session is over, so one that failed is closed.
    const kind = end === 'paid' ? 'paid' : 'closed';
    await eventually(async () => (await read(reference)).kind === kind, `it is ${kind}`);
    const told = end === 'paid' ? ['processing', 'paid'] : ['processing', 'failed', 'closed'];
    await eventually(() => receiver.received.length === told.length, 'all is told');
    const types = receiver.received.map(({ event }) => event.type);
    assert.deepEqual(types.toSorted(), told.map((state) => `session.${state}`).toSorted());
    const isFirst = ({ event }: Received): boolean => event.type === 'session.processing';
    const first = receiver.received.find(isFirst) as Received;
    const now = new Date(Date.now() + aheadMs - 86_400_000);
    const { subject } = provider.readWebhook(first.body, first.headers, now);
    assert(subject.kind === 'session');
    assert.deepEqual(subject.state, { kind: 'processing' });
  });
}

test('limitPerSecond: each kind of call has a rate of its own, and what is beyond it is not done', async () => {
  const reference = await open();
  await simulator.knobs({ limitPerSecond: 5, retryAfterS: 7 });
  const asked = await Promise.allSettled(Array.from({ length: 50 }, () => open()));
  const refused = asked.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []));
  // A second's worth may come at once, and more while the machine is slow.
  assert(refused.length > 20 && refused.length <= 45, `${refused.length} refused`);
  for (const { reason, answered, retryAfterMs } of refused as Refusal[]) {
    assert.deepEqual([reason, answered, retryAfterMs], ['OVERLOADED', true, 7_000]);
  }
  assert.equal((await read(reference)).kind, 'open');
  assert.equal((await simulator.provider.closeSession(reference, soon())).kind, 'closed');
  // Paying and the knobs are not calls of the merchant's.
  for (let count = 0; count < 20; count += 1) await simulator.call('GET', '/v1/knobs');
  await simulator.knobs({ limitPerSecond: 5 });
  const again = await Promise.allSettled(Array.from({ length: 50 }, () => open()));
  const last = again.find((one) => one.status === 'rejected');
  assert.equal(last?.status === 'rejected' && last.reason.retryAfterMs, 0);
  await simulator.knobs({});
  await open();
});

test('storeErrors: an error is repeated under its key for a day, whatever the knob says; other keys are free', async () => {
  const session = newSession();
  const opening = () => simulator.provider.openSession(session, soon());
  await simulator.knobs({ storeErrors: true });
  await assert.rejects(opening(), { reason: 'OUTCOME_UNKNOWN', answered: false });
  await simulator.knobs({});
  for (let count = 0; count < 3; count += 1) {
    await assert.rejects(opening(), (error: Error) => error instanceof ReplayedRefusal);
  }
  const { reference } = await simulator.provider.openSession(newSession(), soon());
  await pay(reference);
  await simulator.knobs({ storeErrors: true });
  const refund = refundOf(reference);
  await assert.rejects(simulator.provider.refund(refund, soon()), { answered: false });
  await simulator.knobs({});
  await assert.rejects(simulator.provider.refund(refund, soon()), { answered: true });
  assert.equal(await simulator.provider.readRefund(refund, soon()), undefined);
  aheadMs += 86_400_000;
  assert.equal((await simulator.provider.refund(refund, soon())).kind, 'succeeded');
  assert.notEqual((await opening()).reference, '');
});

test('knobs that are unknown or out of range are all named, and change nothing', async () => {
  await simulator.knobs({ duplicates: 3 });
  const { status, body } = await simulator.call('PUT', '/v1/knobs', {
    duplicates: 0,
    loseAnswers: 'yes',
    wrongCurrency: 'euro',
    silence: 1,
    noise: true,
  });
  assert.equal(status, 400);
  for (const name of ['duplicates', 'loseAnswers', 'wrongCurrency', 'silence', 'noise']) {
    assert(body.error.message.includes(name), body.error.message);
  }
  assert.equal((await simulator.call('PUT', '/v1/knobs', [])).status, 400);
  assert.equal((await simulator.call('GET', '/v1/knobs')).body.duplicates, 3);
});

test('setting some knobs returns the others to their usual value, and each is explained', async () => {
  await simulator.knobs({ duplicates: 3, slowMs: 1 });
  const { body } = await simulator.call('PUT', '/v1/knobs', { delayMs: 5 });
  assert.equal(body.duplicates, 1);
  assert.equal(body.slowMs, 0);
  assert.equal(body.delayMs, 5);
  const help = (await simulator.call('GET', '/v1/knobs/help')).body;
  assert.deepEqual(Object.keys(help), Object.keys(body));
});
