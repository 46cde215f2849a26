import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  PaymentSettlement,
  PaymentStatus,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import type {
  HandleWebhookRequest,
  HandleWebhookResult,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import type { ProviderEvent } from '../../services/payment/provider.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { fromRefusalMessage } from '../../services/runtime/refusal-status.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { encodeEvent, lost } from './fake-provider.ts';
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

test('a batch of webhooks answers each by itself, and one bad webhook harms no other', async () => {
  const made = await Promise.all(['a', 'b'].map(() => payment.pay(bench.order.add().orderId)));
  const [first, second] = made.map(({ paymentId }) => signed(bench.provider.pay(paymentId)));
  assert(first && second);
  const { results } = await payment.client.batchHandleWebhooks({
    requests: [
      first,
      { ...second, headers: { signature: 'forged' } },
      first,
      { ...second, provider: 'nobody' },
      { ...second, body: Buffer.alloc(0) },
      { ...second, provider: 'No Name' },
      second,
    ],
  });
  assert.deepEqual(results.map(outcomeOf), [
    ...[false, 'UNAUTHENTICATED', true, 'NOT_FOUND', 'INVALID_REQUEST', 'INVALID_REQUEST', false],
  ]);
  for (const { paymentId } of made) {
    await untilRecorded(paymentId);
    const rows = await bench.sql('SELECT 1 FROM webhook_inbox WHERE payment_id = ?', [paymentId]);
    assert.equal(rows.length, 1);
  }
  const again = await payment.client.batchHandleWebhooks({ requests: [second, first] });
  assert.deepEqual(again.results.map(outcomeOf), [true, true]);
});

const genuine = { eventId: 'evt_size', type: 'x', subject: { kind: 'unknown' } } as const;
const large = (count: number, bytes: number) =>
  Array.from({ length: count }, () => ({ ...signed(genuine), body: Buffer.alloc(bytes, 'x') }));
for (const [what, requests] of [
  ['an empty batch', []],
  ['a batch of 101', Array.from({ length: 101 }, () => signed(genuine))],
  ['a batch whose bodies have one byte more than 1 MiB', [...large(4, 256 * 1024), ...large(1, 1)]],
] as const) {
  test(`${what} is refused as a whole and leaves nothing`, async () => {
    const call = payment.client.batchHandleWebhooks({ requests: [...requests] });
    await assert.rejects(call, (error: Refusal) => {
      assert.deepEqual(
        [error.reason, error.violations.map(({ field }) => field)],
        ['INVALID_REQUEST', ['requests']],
      );
      return true;
    });
    assert.deepEqual(
      await bench.sql("SELECT 1 FROM webhook_inbox WHERE event_id = 'evt_size'"),
      [],
    );
  });
}

test('100 webhooks of 1 MiB in all go as one batch', async () => {
  const pad = 'x'.repeat(10_000);
  const requests = Array.from({ length: 100 }, (_, index) =>
    signed({ eventId: `evt_full_${index}`, type: pad, subject: { kind: 'unknown' } }),
  );
  const { results } = await payment.client.batchHandleWebhooks({ requests });
  assert.deepEqual(new Set(results.map(outcomeOf)), new Set([false]));
  const rows = await bench.sql("SELECT 1 FROM webhook_inbox WHERE event_id LIKE 'evt_full_%'");
  assert.equal(rows.length, 100);
});

test('a webhook of a payment that is locked holds up only itself', async () => {
  const made = await Promise.all(
    Array.from({ length: 5 }, () => payment.pay(bench.order.add().orderId)),
  );
  const requests = made.map(({ paymentId }) => signed(bench.provider.pay(paymentId)));
  const stuck = made[2]?.paymentId as bigint;
  const connection = await bench.pool.getConnection();
  let outcomes: unknown[];
  try {
    await connection.query('START TRANSACTION');
    await connection.query('SELECT 1 FROM payments WHERE payment_id = ? FOR UPDATE', [stuck]);
    const { results } = await payment.client.batchHandleWebhooks({ requests });
    outcomes = results.map(outcomeOf);
  } finally {
    await connection.query('ROLLBACK');
    connection.release();
  }
  assert.deepEqual(outcomes, [false, false, 'OVERLOADED', false, false]);
  const { results } = await payment.client.batchHandleWebhooks({ requests });
  assert.deepEqual(results.map(outcomeOf), [true, true, false, true, true]);
  for (const { paymentId } of made) await untilRecorded(paymentId);
});

test('webhooks beside one whose payment is locked are answered while that one still waits', async () => {
  const made = await Promise.all(
    Array.from({ length: 12 }, () => payment.pay(bench.order.add().orderId)),
  );
  const [stuck, ...others] = made.map(({ paymentId }) => signed(bench.provider.pay(paymentId)));
  const connection = await bench.pool.getConnection();
  const order: string[] = [];
  try {
    await connection.query('START TRANSACTION');
    const row = 'SELECT failure FROM payments WHERE payment_id = ? FOR UPDATE';
    await connection.query(row, [made[0]?.paymentId]);
    const deliver = (webhook: HandleWebhookRequest, name: string): Promise<unknown> =>
      payment.client.handleWebhook(webhook).then(
        () => order.push(name),
        () => order.push(name),
      );
    await Promise.all([
      deliver(stuck as HandleWebhookRequest, 'stuck'),
      ...others.map((webhook) => deliver(webhook, 'other')),
    ]);
  } finally {
    await connection.query('ROLLBACK');
    connection.release();
  }
  assert.deepEqual(order, [...others.map(() => 'other'), 'stuck']);
});

test('a webhook that cannot take effect is set aside, counted and tried again; the others take effect', async () => {
  // Somebody else's payment bears the reference of this one's session: no row takes it.
  const thief = await payment.pay(bench.order.add().orderId);
  bench.provider.after = (method) => {
    if (method === 'openSession') lost();
  };
  const { orderId } = bench.order.add();
  await assert.rejects(payment.pay(orderId), { reason: 'OUTCOME_UNKNOWN' });
  bench.provider.after = () => undefined;
  const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
  const poisoned = payments[0]?.paymentId as bigint;
  const setReference = 'UPDATE payments SET provider_reference = ? WHERE payment_id = ?';
  await bench.sql(setReference, [Buffer.from(`ses_${poisoned}`), thief.paymentId]);

  const made = await Promise.all(
    Array.from({ length: 20 }, () => payment.pay(bench.order.add().orderId)),
  );
  const poison = signed(bench.provider.pay(poisoned));
  const good = made.map(({ paymentId }) => signed(bench.provider.pay(paymentId)));
  const requests = [...good.slice(0, 10), poison, ...good.slice(10)];
  const { results } = await payment.client.batchHandleWebhooks({ requests });
  assert.deepEqual(new Set(results.map(outcomeOf)), new Set([false]));
  for (const { paymentId } of made) await untilRecorded(paymentId);
  assert.equal((await payment.read(poisoned)).status, pending);
  const aside = () => bench.sql('SELECT failure FROM webhooks_aside');
  assert.match((await aside())[0]?.failure, /Duplicate entry/);
  await eventually(
    async () =>
      (await metricsText()).includes('payment_work_due{kind="webhook",service="payment"} 1'),
    'it is shown',
  );
  assert.match(
    await metricsText(),
    /payment_webhook_total\{effect="set_aside",service="payment"\} 1/,
  );

  await bench.sql(setReference, [Buffer.from(`ses_${thief.paymentId}`), thief.paymentId]);
  await eventually(async () => {
    // Not the payments: the poller would be faster.
    await bench.sql('UPDATE webhooks_aside SET next_time = NOW(3)');
    return (await aside()).length === 0;
  }, 'it has taken effect');
  await untilRecorded(poisoned);
  const inbox = 'SELECT effect FROM webhook_inbox WHERE payment_id = ?';
  assert.deepEqual(
    (await bench.sql(inbox, [poisoned])).map(({ effect }) => effect),
    ['applied'],
  );
});

async function metricsText(): Promise<string> {
  return await (await fetch(`http://127.0.0.1:${payment.metricsPort}/metrics`)).text();
}

test('payments that order does not answer keep it from being told of no others, not even at second try', async () => {
  const [silent, ...others] = await Promise.all(
    Array.from({ length: 6 }, (_, slot) => payment.pay(bench.order.add(7n, BigInt(slot)).orderId)),
  );
  const held = Promise.withResolvers<void>();
  bench.order.before = (method, orderId) =>
    method === 'recordPayment' && orderId === silent?.orderId ? held.promise : undefined;
  try {
    const made = [silent, ...others].map((one) => one?.paymentId as bigint);
    const requests = made.map((paymentId) => signed(bench.provider.pay(paymentId)));
    bench.order.batches.length = 0;
    await payment.client.batchHandleWebhooks({ requests });
    await eventually(() => bench.order.batches.includes(made.length), 'all were told in one call');
    await eventually(async () => {
      await bench.makeDue();
      const now = await Promise.all(others.map(({ paymentId }) => payment.read(paymentId)));
      return now.every(({ settlement }) => settlement === recorded);
    }, 'order knows of the others');
  } finally {
    held.resolve();
  }
  await eventually(async () => {
    await bench.makeDue();
    return (await payment.read(silent?.paymentId as bigint)).settlement === recorded;
  }, 'order knows of all');
});

test('the payments of a batch are told to order in one call, and what it refuses is told again', async () => {
  const made = await Promise.all(
    Array.from({ length: 20 }, () => payment.pay(bench.order.add().orderId)),
  );
  const refused = made[3]?.orderId;
  bench.order.before = (method, orderId) => {
    if (method === 'recordPayment' && orderId === refused) throw new Refusal('OVERLOADED');
  };
  bench.order.batches.length = 0;
  const requests = made.map(({ paymentId }) => signed(bench.provider.pay(paymentId)));
  await payment.client.batchHandleWebhooks({ requests });
  for (const { paymentId, orderId } of made) {
    if (orderId !== refused) await untilRecorded(paymentId);
  }
  assert(bench.order.batches.includes(20), `${bench.order.batches}`);
  assert.equal(bench.order.orders.get(refused as bigint)?.paymentId, 0n);
  bench.order.before = () => undefined;
  await eventually(async () => {
    await bench.makeDue();
    return (await payment.read(made[3]?.paymentId as bigint)).settlement === recorded;
  }, 'order has answered');
});

test('answers that cannot be stored together are stored each alone', async () => {
  const made = await Promise.all(
    Array.from({ length: 10 }, () => payment.pay(bench.order.add().orderId)),
  );
  const ids = made.map(({ paymentId }) => paymentId);
  const [bad] = ids;
  let largest = 0;
  failpoints.set('payment.before_settle_commit', (info) => {
    const settled = info.recorded as bigint[];
    largest = Math.max(largest, settled.length);
    if (settled.includes(bad as bigint)) throw new Error('not this one');
  });
  const requests = ids.map((paymentId) => signed(bench.provider.pay(paymentId)));
  await payment.client.batchHandleWebhooks({ requests });
  for (const paymentId of ids.slice(1)) await untilRecorded(paymentId);
  assert.equal(largest, ids.length);
  assert.notEqual((await payment.read(bad as bigint)).settlement, recorded);
  failpoints.clear();
  await eventually(async () => {
    await bench.makeDue();
    return (await payment.read(bad as bigint)).settlement === recorded;
  }, 'it is stored in the end');
});

function signed(event: ProviderEvent): HandleWebhookRequest {
  const headers = { signature: 'genuine' };
  return { provider: 'simulator', body: encodeEvent(event), headers };
}

/** Whether it was a duplicate, or why it was refused. */
function outcomeOf({ outcome }: HandleWebhookResult): boolean | string | undefined {
  if (outcome?.$case === 'handled') return outcome.value.duplicate;
  return outcome && fromRefusalMessage(outcome.value).reason;
}
