import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Deadline } from '../../services/runtime/deadline.ts';
import { eventually } from '../support/eventually.ts';
import { type RunningSimulator, startReceiver, startSimulator } from './support.ts';

const soon = (): Deadline => Deadline.after(10_000);
let paymentIds = 100n;

async function openAndPay(simulator: RunningSimulator, expireInMs = 60_000): Promise<string> {
  paymentIds += 1n;
  const { reference } = await simulator.provider.openSession(
    {
      paymentId: paymentIds,
      orderId: 7n,
      amount: { currencyCode: 'USD', minorUnits: 1_999n },
      expireTime: new Date(Date.now() + expireInMs),
    },
    soon(),
  );
  await simulator.call('POST', `/v1/sessions/${reference}/pay`);
  return reference;
}

const nothingWaits = async (simulator: RunningSimulator): Promise<boolean> =>
  (await simulator.call('GET', '/v1/webhooks')).body.waiting === 0;

test('every change is told once, signed, in words that the client reads', async () => {
  const receiver = await startReceiver();
  const simulator = await startSimulator({ SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url });
  try {
    const { provider } = simulator;
    const reference = await openAndPay(simulator);
    const amount = { currencyCode: 'USD', minorUnits: 500n };
    await provider.refund({ refundId: 5n, reference, amount }, soon());
    await eventually(() => nothingWaits(simulator), 'the webhooks are accepted');
    const events = receiver.received.map(({ body, headers }) =>
      provider.readWebhook(body, headers, new Date()),
    );
    assert.deepEqual(
      new Set(events.map(({ type }) => type)),
      new Set(['session.paid', 'refund.succeeded']),
    );
    assert.equal(receiver.received.length, 2);
    const paid = events.find(({ type }) => type === 'session.paid');
    assert.deepEqual(paid?.subject, {
      kind: 'session',
      paymentId: paymentIds,
      reference,
      state: { kind: 'paid', captured: { currencyCode: 'USD', minorUnits: 1_999n } },
    });
    const refunded = events.find(({ type }) => type === 'refund.succeeded')?.subject;
    assert(refunded?.kind === 'refund' && refunded.refundId === 5n);
  } finally {
    await simulator.stop();
    await receiver.stop();
  }
});

test('a session that runs out is told as closed', async () => {
  const receiver = await startReceiver();
  const simulator = await startSimulator({ SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url });
  try {
    await openAndPay(simulator, -1_000);
    await eventually(() => receiver.received.length > 0, 'the webhook arrives');
    assert.equal(receiver.received[0]?.event.type, 'session.closed');
  } finally {
    await simulator.stop();
    await receiver.stop();
  }
});

test('a webhook that is not accepted comes again, under the same event id and a new signature', async () => {
  const receiver = await startReceiver();
  receiver.status = 503;
  const simulator = await startSimulator({ SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url });
  try {
    await openAndPay(simulator);
    await eventually(() => receiver.received.length >= 3, 'it is tried three times');
    assert.equal(await nothingWaits(simulator), false);
    receiver.status = 204;
    await eventually(() => nothingWaits(simulator), 'it is accepted');
    assert.equal(new Set(receiver.received.map(({ event }) => event.id)).size, 1);
    const count = receiver.received.length;
    await openAndPay(simulator);
    await eventually(() => nothingWaits(simulator), 'the next one is accepted');
    assert.equal(receiver.received.length, count + 1);
  } finally {
    await simulator.stop();
    await receiver.stop();
  }
});

test('a restart on its file forgets nothing: sessions, refunds, knobs, and webhooks not yet accepted', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-simulator-'));
  const receiver = await startReceiver();
  receiver.status = 500;
  const variables = {
    SLUICE_SIMULATOR_DATA: join(dir, 'simulator.db'),
    SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url,
  };
  let simulator = await startSimulator(variables);
  try {
    await simulator.knobs({ duplicates: 2 });
    const reference = await openAndPay(simulator);
    const order = { refundId: 77n, reference, amount: { currencyCode: 'USD', minorUnits: 9n } };
    const refunded = await simulator.provider.refund(order, soon());
    await eventually(() => receiver.received.length > 0, 'a delivery was tried');
    await simulator.stop();
    receiver.received.length = 0;
    receiver.status = 200;

    simulator = await startSimulator(variables);
    const { provider } = simulator;
    assert.equal((await provider.readSession(reference, soon())).kind, 'paid');
    assert.deepEqual(await provider.readRefund(order, soon()), refunded);
    assert.deepEqual(await provider.refund(order, soon()), refunded);
    assert.equal((await simulator.call('GET', '/v1/knobs')).body.duplicates, 2);
    await eventually(() => nothingWaits(simulator), 'the webhooks are accepted');
    // At least once: one that was under way when the simulator stopped may come once more.
    for (const type of ['session.paid', 'refund.succeeded']) {
      const copies = receiver.received.filter(({ event }) => event.type === type);
      assert(copies.length >= 2, `${copies.length} copies of ${type}`);
      assert.equal(new Set(copies.map(({ event }) => event.id)).size, 1);
    }
  } finally {
    await simulator.stop();
    await receiver.stop();
    rmSync(dir, { recursive: true, force: true });
  }
});

test('a thousand webhooks all arrive, though only a bounded number is under way', async () => {
  const receiver = await startReceiver();
  const simulator = await startSimulator({ SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url });
  try {
    await simulator.knobs({ duplicates: 250 });
    await Promise.all(Array.from({ length: 4 }, () => openAndPay(simulator)));
    await eventually(() => nothingWaits(simulator), 'all are accepted');
    assert.equal(receiver.received.length, 1_000);
    assert.equal(new Set(receiver.received.map(({ event }) => event.id)).size, 4);
    assert(receiver.connectionsMax <= 128, `${receiver.connectionsMax} connections`);
    const metrics = await (await fetch(`${simulator.metricsUrl}/metrics`)).text();
    assert.match(metrics, /simulator_webhook_attempts_total\{outcome="accepted".*\} 1000/);
  } finally {
    await simulator.stop();
    await receiver.stop();
  }
});
