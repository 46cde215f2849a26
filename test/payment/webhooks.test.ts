import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  PaymentSettlement,
  PaymentStatus,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { encodeEvent } from './fake-provider.ts';
import {
  type PaymentBench,
  type PaymentProcess,
  startPaymentBench,
  untilPayment,
} from './support.ts';

const { PAYMENT_STATUS_SUCCEEDED: succeeded, PAYMENT_STATUS_FAILED: failed } = PaymentStatus;
const { PAYMENT_STATUS_PENDING: pending } = PaymentStatus;
const { PAYMENT_SETTLEMENT_RECORDED: recorded, PAYMENT_SETTLEMENT_SURPLUS: surplus } =
  PaymentSettlement;
const { REFUND_STATUS_SUCCEEDED: refunded } = RefundStatus;

let bench: PaymentBench;
let payment: PaymentProcess;

before(async () => {
  bench = await startPaymentBench('webhooks');
  payment = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.order.before = () => undefined;
  bench.order.after = () => undefined;
  bench.provider.before = () => undefined;
  bench.provider.after = () => undefined;
  payment.closeCircuit();
});
after(() => bench.stop());

const untilRecorded = (paymentId: bigint) =>
  untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'it is recorded');
const untilRefunded = (paymentId: bigint) =>
  untilPayment(payment, paymentId, (one) => one.refunds[0]?.status === refunded, 'it is refunded');

test('a paid session pays its order, and is answered so to whoever asks', async () => {
  const { orderId, total } = bench.order.add();
  const { paymentId, paymentUrl, status } = await payment.pay(orderId);
  assert.equal(status, pending);
  assert.equal(paymentUrl, `http://pay.test/${paymentId}`);
  assert.equal(await payment.deliver(bench.provider.pay(paymentId)), false);
  const paid = await untilRecorded(paymentId);
  assert.equal(paid.status, succeeded);
  assert.deepEqual(paid.captured, total);
  assert.equal(paid.paymentUrl, '');
  assert.equal(bench.order.orders.get(orderId)?.paymentId, paymentId);
});

test('a webhook delivered a hundred times at once, in two processes, takes effect once', async () => {
  const other = await bench.start();
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  const event = bench.provider.pay(paymentId);
  const duplicates = await Promise.all(
    Array.from({ length: 100 }, (_, index) => (index % 2 ? payment : other).deliver(event)),
  );
  assert.equal(duplicates.filter((duplicate) => !duplicate).length, 1);
  await untilRecorded(paymentId);
  const inbox = await bench.sql('SELECT * FROM webhook_inbox WHERE payment_id = ?', [paymentId]);
  assert.deepEqual(
    inbox.map((row) => row.effect),
    ['applied'],
  );
  assert.deepEqual((await payment.read(paymentId)).refunds, []);
  await other.stop();
});

test('webhooks of many payments, each duplicated and all shuffled, leave every order paid once', async () => {
  const made = await Promise.all(
    Array.from({ length: 60 }, () => payment.pay(bench.order.add().orderId)),
  );
  const events = made.flatMap(({ paymentId }) => {
    const failure = bench.provider.fail(paymentId);
    return [failure, bench.provider.pay(paymentId)];
  });
  const shuffled = [...events, ...events, ...events]
    .map((event, index) => ({ event, at: (index * 7_919) % 361 }))
    .sort((a, b) => a.at - b.at);
  await Promise.all(shuffled.map(({ event }) => payment.deliver(event)));
  for (const { paymentId } of made) {
    const { status, refunds } = await untilRecorded(paymentId);
    assert.equal(status, succeeded);
    assert.deepEqual(refunds, []);
  }
});

test('two sessions of one order paid at once: one payment is recorded, the other refunded once', async () => {
  const { orderId } = bench.order.add();
  const made = await Promise.all(['a', 'b'].map((name) => payment.pay(orderId, name)));
  const events = made.map(({ paymentId }) => bench.provider.pay(paymentId));
  await Promise.all([...events, ...events].map((event) => payment.deliver(event)));
  await eventually(async () => {
    const now = await Promise.all(made.map(({ paymentId }) => payment.read(paymentId)));
    const settlements = now.map(({ settlement }) => settlement).toSorted();
    return settlements[0] === recorded && settlements[1] === surplus;
  }, 'one is recorded and one is surplus');
  const winner = bench.order.orders.get(orderId)?.paymentId;
  const loser = made.find(({ paymentId }) => paymentId !== winner)?.paymentId as bigint;
  const { refunds } = await untilRefunded(loser);
  assert.equal(refunds.length, 1);
  assert.equal(refunds[0]?.requestId, 'surplus');
  const back = [...bench.provider.refunds.values()].filter(
    ({ order }) => order.reference === `ses_${loser}`,
  );
  assert.deepEqual(
    back.map(({ order }) => order.amount.minorUnits),
    [1_000n],
  );
  assert(!bench.order.refunded.some((told) => told.orderId === orderId));
});

const wrong = [
  { what: 'less', captured: { currencyCode: 'EUR', minorUnits: 999n } },
  { what: 'more', captured: { currencyCode: 'EUR', minorUnits: 1_001n } },
  { what: 'another currency', captured: { currencyCode: 'USD', minorUnits: 1_000n } },
];
for (const { what, captured } of wrong) {
  test(`a payment of ${what} than the order's total is kept and refunded, and order is never told`, async () => {
    const { orderId } = bench.order.add();
    const { paymentId } = await payment.pay(orderId);
    await payment.deliver(bench.provider.pay(paymentId, captured));
    const paid = await untilRefunded(paymentId);
    assert.equal(paid.settlement, surplus);
    assert.deepEqual(paid.captured, captured);
    assert.deepEqual(paid.refunds[0]?.amount, captured);
    assert(!bench.order.recorded.some((told) => told.orderId === orderId));
    const again = await payment.pay(orderId, 'second');
    await payment.deliver(bench.provider.pay(again.paymentId));
    await untilRecorded(again.paymentId);
  });
}

test('a webhook that comes before the answer of the opening was stored is not overwritten by it', async () => {
  const { orderId } = bench.order.add();
  bench.provider.after = async (method, id) => {
    if (method === 'openSession') await payment.deliver(bench.provider.pay(id as bigint));
  };
  const made = await payment.pay(orderId);
  assert.equal(made.status, succeeded);
  assert.equal(made.paymentUrl, '');
  const paid = await untilRecorded(made.paymentId);
  assert.equal(paid.providerReference, `ses_${made.paymentId}`);
});

test('a payment that failed takes the next attempt, and a late success of the first is refunded', async () => {
  const { orderId } = bench.order.add();
  const first = await payment.pay(orderId, 'first');
  await payment.deliver(bench.provider.fail(first.paymentId));
  const read = await payment.read(first.paymentId);
  assert.deepEqual([read.status, read.failure], [failed, 'card declined']);
  const second = await payment.pay(orderId, 'second');
  await payment.deliver(bench.provider.pay(second.paymentId));
  await untilRecorded(second.paymentId);
  await payment.deliver(bench.provider.pay(first.paymentId));
  const late = await untilRefunded(first.paymentId);
  assert.deepEqual([late.status, late.settlement], [succeeded, surplus]);
});

test('order is told until it answers, whatever becomes of the calls', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  let calls = 0;
  const failing = (): void => {
    calls += 1;
    if (calls <= 4) throw new Refusal(calls % 2 ? 'DEPENDENCY_DOWN' : 'OUTCOME_UNKNOWN');
  };
  bench.order.before = failing;
  bench.order.after = failing;
  await payment.deliver(bench.provider.pay(paymentId));
  await eventually(async () => {
    await bench.makeDue();
    return (await payment.read(paymentId)).settlement === recorded;
  }, 'order has answered');
  assert.deepEqual((await payment.read(paymentId)).refunds, []);
});

test('an order that does not exist any more is answered with a refund', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  bench.order.orders.delete(orderId);
  await payment.deliver(bench.provider.pay(paymentId));
  const { settlement, refunds } = await untilRefunded(paymentId);
  assert.equal(settlement, surplus);
  assert.equal(refunds.length, 1);
});

for (const place of [
  'before_webhook_commit',
  'after_webhook_commit',
  'before_record',
  'after_record',
  'before_settle_commit',
  'after_settle_commit',
]) {
  test(`a process that dies once at payment.${place} leaves a surplus payment refunded once`, async () => {
    const { orderId } = bench.order.add();
    const [winner, late] = await Promise.all(['a', 'b'].map((name) => payment.pay(orderId, name)));
    await payment.deliver(bench.provider.pay(winner?.paymentId as bigint));
    await untilRecorded(winner?.paymentId as bigint);
    const event = bench.provider.pay(late?.paymentId as bigint);
    let hits = 0;
    failpoints.set(`payment.${place}`, () => {
      hits += 1;
      if (hits === 1) throw new Error('died');
    });
    // The provider delivers until it is answered.
    await eventually(
      () =>
        payment.deliver(event).then(
          () => true,
          () => false,
        ),
      'the webhook is taken in',
    );
    await eventually(async () => {
      await bench.makeDue();
      return (await payment.read(late?.paymentId as bigint)).refunds[0]?.status === refunded;
    }, 'the late payment is refunded');
    assert(hits > 0);
    const back = [...bench.provider.refunds.values()].filter(
      ({ order }) => order.reference === `ses_${late?.paymentId}`,
    );
    assert.equal(back.length, 1);
  });
}

test('an unknown type of event is acknowledged and kept, also twice', async () => {
  const event = {
    eventId: 'evt_odd',
    type: 'weather.changed\u00e9',
    subject: { kind: 'unknown' },
  } as const;
  assert.equal(await payment.deliver(event), false);
  assert.equal(await payment.deliver(event), true);
  const [row] = await bench.sql("SELECT * FROM webhook_inbox WHERE event_id = 'evt_odd'");
  assert.deepEqual([row?.effect, row?.event_type], ['unknown_type', 'weather.changed?']);
  assert(row?.body.equals(encodeEvent(event)));
});

test('an event of a payment that does not exist is kept without effect', async () => {
  const state = { kind: 'closed' } as const;
  const subject = { kind: 'session', paymentId: 5n, reference: 'ses_x', state } as const;
  await payment.deliver({ eventId: 'evt_stranger', type: 'x', subject });
  const [row] = await bench.sql("SELECT * FROM webhook_inbox WHERE event_id = 'evt_stranger'");
  assert.equal(row?.effect, 'unknown_payment');
});

test('an event that names a payment but another session changes nothing', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  const state = { kind: 'closed' } as const;
  const subject = { kind: 'session', paymentId, reference: 'ses_other', state } as const;
  await payment.deliver({ eventId: 'evt_other', type: 'x', subject });
  assert.equal((await payment.read(paymentId)).status, pending);
});

test('a webhook without a genuine signature, or from nobody known, leaves nothing behind', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  const body = encodeEvent(bench.provider.pay(paymentId));
  const call = (provider: string, headers: Record<string, string>) =>
    payment.client.handleWebhook({ provider, body, headers });
  await assert.rejects(call('simulator', {}), { reason: 'UNAUTHENTICATED' });
  await assert.rejects(call('simulator', { signature: 'forged' }), { reason: 'UNAUTHENTICATED' });
  await assert.rejects(call('nobody', { signature: 'genuine' }), { reason: 'NOT_FOUND' });
  assert.equal((await payment.read(paymentId)).status, pending);
  const rows = await bench.sql('SELECT 1 FROM webhook_inbox WHERE payment_id = ?', [paymentId]);
  assert.equal(rows.length, 0);
});
