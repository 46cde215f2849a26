import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  PaymentSettlement,
  PaymentStatus,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { CloseResult } from '../../gen/sluice/payment/v1/payment_service.ts';
import { attemptsMax } from '../../services/payment/create-payment.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { pauseAt } from '../support/composed.ts';
import { eventually } from '../support/eventually.ts';
import { lost } from './fake-provider.ts';
import {
  type PaymentBench,
  type PaymentProcess,
  startPaymentBench,
  untilPayment,
} from './support.ts';

const {
  PAYMENT_STATUS_PENDING: pending,
  PAYMENT_STATUS_SUCCEEDED: succeeded,
  PAYMENT_STATUS_FAILED: failed,
  PAYMENT_STATUS_CLOSED: closed,
} = PaymentStatus;
const { CLOSE_RESULT_CLOSED: isClosed, CLOSE_RESULT_PAID: isPaid } = CloseResult;
const { PAYMENT_SETTLEMENT_RECORDED: recorded } = PaymentSettlement;

let bench: PaymentBench;
let payment: PaymentProcess;

before(async () => {
  bench = await startPaymentBench('sessions');
  payment = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.order.before = () => undefined;
  bench.provider.before = () => undefined;
  bench.provider.after = () => undefined;
  payment.closeCircuit();
});
after(() => bench.stop());

const close = async (orderId: bigint): Promise<CloseResult> =>
  (await payment.client.closePayment({ orderId })).result;
const isOver = (paymentId: bigint): boolean =>
  bench.provider.sessions.get(paymentId)?.state.kind !== 'open';

test('one attempt opens one session, however often and at once it is asked for', async () => {
  const other = await bench.start();
  const { orderId } = bench.order.add();
  const made = await Promise.all(
    Array.from({ length: 12 }, (_, index) => (index % 2 ? payment : other).pay(orderId, 'one')),
  );
  assert.equal(new Set(made.map(({ paymentId }) => paymentId)).size, 1);
  assert.equal(new Set(made.map(({ paymentUrl }) => paymentUrl)).size, 1);
  const again = await payment.pay(orderId, 'one');
  assert.equal(again.paymentId, made[0]?.paymentId);
  await other.stop();
});

test('a payment of another user’s order is not found, and neither are another user’s payments', async () => {
  const { orderId } = bench.order.add(7n);
  await assert.rejects(payment.pay(orderId, 'mine', 8n), { reason: 'NOT_FOUND' });
  const { paymentId } = await payment.pay(orderId, 'mine', 7n);
  await assert.rejects(payment.pay(orderId, 'mine', 8n), { reason: 'NOT_FOUND' });
  const { client } = payment;
  await assert.rejects(client.getPayment({ paymentId, userId: 8n }), { reason: 'NOT_FOUND' });
  assert.deepEqual((await client.listPayments({ orderId, userId: 8n })).payments, []);
  for (const userId of [7n, 0n]) {
    assert.equal((await client.getPayment({ paymentId, userId })).payment?.paymentId, paymentId);
    assert.equal((await client.listPayments({ orderId, userId })).payments.length, 1);
  }
});

for (const moment of ['before', 'after'] as const) {
  test(`an opening that is lost ${moment} it took effect is finished by the same attempt`, async () => {
    const { orderId } = bench.order.add();
    bench.provider[moment] = (method) => {
      if (method === 'openSession') lost();
    };
    await assert.rejects(payment.pay(orderId), { reason: 'OUTCOME_UNKNOWN' });
    bench.provider[moment] = () => undefined;
    const { paymentId, paymentUrl } = await payment.pay(orderId);
    assert.equal(paymentUrl, `http://pay.test/${paymentId}`);
    const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
    assert.equal(payments.length, 1);
  });
}

const places = [
  'before_begin',
  'after_begin',
  'before_insert_commit',
  'after_insert_payment',
  'before_session',
  'after_session',
  'after_store_session',
];
for (const place of places) {
  test(`a process that dies once at payment.${place} leaves an attempt that can be finished`, async () => {
    const { orderId } = bench.order.add();
    let hits = 0;
    failpoints.set(`payment.${place}`, () => {
      hits += 1;
      if (hits === 1) throw new Refusal('OUTCOME_UNKNOWN');
    });
    await assert.rejects(payment.pay(orderId));
    const { paymentId, paymentUrl } = await payment.pay(orderId);
    assert.equal(paymentUrl, `http://pay.test/${paymentId}`);
    assert.equal((await payment.client.listPayments({ orderId, userId: 0n })).payments.length, 1);
    assert.equal(await close(orderId), isClosed);
    assert(isOver(paymentId));
  });
}

test('an order can be tried to be paid only so often', async () => {
  const { orderId } = bench.order.add();
  for (let index = 0; index < attemptsMax; index += 1) await payment.pay(orderId, `try ${index}`);
  await assert.rejects(payment.pay(orderId, 'one more'), { reason: 'ILLEGAL_TRANSITION' });
  assert.equal(await close(orderId), isClosed);
});

test('a session that the provider refuses for good is a failed payment with its word', async () => {
  const { orderId } = bench.order.add();
  bench.provider.before = () => {
    throw new Refusal('INVALID_REQUEST', 'the amount is too small');
  };
  const { status, failure, paymentUrl } = await payment.pay(orderId);
  assert.deepEqual([status, failure, paymentUrl], [failed, 'the amount is too small', '']);
  assert.equal(await close(orderId), isClosed);
});

test('closing voids every session of the order, and no other can be opened', async () => {
  const { orderId } = bench.order.add();
  const first = await payment.pay(orderId, 'first');
  await payment.deliver(bench.provider.fail(first.paymentId));
  const second = await payment.pay(orderId, 'second');
  assert.equal(await close(orderId), isClosed);
  for (const { paymentId } of [first, second]) {
    const { status, failure } = await payment.read(paymentId);
    assert.deepEqual([status, failure], [closed, '']);
    assert.equal(bench.provider.sessions.get(paymentId)?.state.kind, 'closed');
  }
  await assert.rejects(payment.pay(orderId, 'third'), { reason: 'ILLEGAL_TRANSITION' });
  assert.equal(await close(orderId), isClosed);
});

test('closing an order without payments closes it too', async () => {
  assert.equal(await close(bench.order.add().orderId), isClosed);
});

test('closing an order whose session was paid answers PAID, as if its webhook had come', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  const late = bench.provider.pay(paymentId);
  assert.equal(await close(orderId), isPaid);
  await untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'it is recorded');
  await payment.deliver(late);
  assert.deepEqual((await payment.read(paymentId)).refunds, []);
  assert.equal(await close(orderId), isPaid);
});

test('closing an order whose session was paid with a wrong amount answers CLOSED and refunds', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  bench.provider.pay(paymentId, { currencyCode: 'EUR', minorUnits: 1n });
  assert.equal(await close(orderId), isClosed);
  const { refunds } = await untilPayment(
    payment,
    paymentId,
    (one) => one.refunds[0]?.status === RefundStatus.REFUND_STATUS_SUCCEEDED,
    'it is refunded',
  );
  assert.equal(refunds.length, 1);
});

test('closing is unknown as long as a session may still be paid, and settled by asking again', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  bench.provider.after = lost;
  await assert.rejects(close(orderId), { reason: 'OUTCOME_UNKNOWN' });
  bench.provider.after = () => undefined;
  bench.provider.before = (method) => {
    if (method === 'closeSession') throw new Refusal('DEPENDENCY_DOWN');
  };
  await assert.rejects(close(orderId), { reason: 'DEPENDENCY_DOWN' });
  bench.provider.before = () => undefined;
  assert.equal(await close(orderId), isClosed);
  assert(isOver(paymentId));
});

for (const place of [
  'before_close_order',
  'after_close_order',
  'before_close',
  'after_close',
  'before_apply_commit',
  'after_apply_commit',
]) {
  test(`a process that dies once at payment.${place} leaves an order that can be closed`, async () => {
    const { orderId } = bench.order.add();
    const { paymentId } = await payment.pay(orderId);
    let hits = 0;
    failpoints.set(`payment.${place}`, () => {
      hits += 1;
      if (hits === 1) throw new Refusal('OUTCOME_UNKNOWN');
    });
    await assert.rejects(close(orderId), { reason: 'OUTCOME_UNKNOWN' });
    assert.equal(await close(orderId), isClosed);
    assert(isOver(paymentId));
    assert.equal((await payment.read(paymentId)).status, closed);
  });
}

test('a session that the provider has forgotten can be closed', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  bench.provider.sessions.delete(paymentId);
  assert.equal(await close(orderId), isClosed);
});

const heldUp: [string, string][] = [
  ['after_insert_payment', 'ILLEGAL_TRANSITION'],
  ['before_session', 'ILLEGAL_TRANSITION'],
  ['after_session', 'ILLEGAL_TRANSITION'],
  // It was opened before the order was closed; the buyer finds the session voided.
  ['after_store_session', 'opened'],
];
for (const [place, expected] of heldUp) {
  test(`an opening held up at payment.${place} while the order is closed leaves nothing to pay`, async () => {
    const { orderId } = bench.order.add();
    const pause = pauseAt(`payment.${place}`);
    const opening = payment.pay(orderId).then(
      () => 'opened',
      (error: Refusal) => error.reason,
    );
    await pause.reached;
    assert.equal(await close(orderId), isClosed);
    pause.release();
    assert.equal(await opening, expected);
    const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
    assert.deepEqual(
      payments.map(({ status }) => status),
      [closed],
    );
    for (const { paymentId } of payments) assert(isOver(paymentId));
  });
}

test('closing races the buyer at the provider’s page: the order is closed or paid, never both', async () => {
  for (let round = 0; round < 40; round += 1) {
    const { orderId } = bench.order.add();
    const { paymentId } = await payment.pay(orderId);
    let event: ReturnType<typeof bench.provider.pay> | undefined;
    const buy = async (): Promise<void> => {
      // As a real provider does: a voided session cannot be paid.
      if (bench.provider.sessions.get(paymentId)?.state.kind !== 'open') return;
      event = bench.provider.pay(paymentId);
      await payment.deliver(event);
    };
    const [result] = await Promise.all([
      close(orderId),
      new Promise<void>((resolve) => setTimeout(resolve, round % 8)).then(buy),
    ]);
    assert.equal(result, event ? isPaid : isClosed, `round ${round}`);
    const expected = event ? succeeded : closed;
    assert.equal((await payment.read(paymentId)).status, expected);
  }
});

test('a payment that stays silent is asked for and takes effect', async () => {
  const process_ = await bench.start({ pollMs: 100 });
  const { orderId } = bench.order.add();
  const { paymentId } = await process_.pay(orderId);
  bench.provider.pay(paymentId);
  await untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'it is recorded');
  const second = await process_.pay(bench.order.add().orderId);
  bench.provider.fail(second.paymentId, 'no money');
  const read = await untilPayment(
    payment,
    second.paymentId,
    (one) => one.status === failed,
    'failed',
  );
  assert.equal(read.failure, 'no money');
  await process_.stop();
});

test('the poller finishes an opening that was cut short, and leaves alone what is over', async () => {
  const { orderId } = bench.order.add();
  bench.provider.after = (method) => {
    if (method === 'openSession') lost();
  };
  await assert.rejects(payment.pay(orderId), { reason: 'OUTCOME_UNKNOWN' });
  bench.provider.after = () => undefined;
  let paymentId = 0n;
  await eventually(async () => {
    await bench.makeDue();
    const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
    paymentId = payments[0]?.paymentId as bigint;
    return payments[0]?.providerReference !== '';
  }, 'the poller has opened it');
  await close(orderId);
  const rows = await bench.sql('SELECT next_time FROM payments WHERE payment_id = ?', [paymentId]);
  assert.equal(rows[0]?.next_time, null);
});

/** An attempt whose opening was cut short, and another one that pays the order. */
async function paidBeside(): Promise<{ orderId: bigint; leftBehind: bigint }> {
  const { orderId } = bench.order.add();
  failpoints.set('payment.before_session', () => {
    throw new Refusal('OUTCOME_UNKNOWN');
  });
  await assert.rejects(payment.pay(orderId, 'cut short'), { reason: 'OUTCOME_UNKNOWN' });
  failpoints.clear();
  const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
  const { paymentId } = await payment.pay(orderId, 'pays');
  await payment.deliver(bench.provider.pay(paymentId));
  await untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'it is recorded');
  return { orderId, leftBehind: payments[0]?.paymentId as bigint };
}

test('an attempt that was cut short is not opened any more once another one has paid', async () => {
  const { orderId, leftBehind } = await paidBeside();
  await assert.rejects(payment.pay(orderId, 'cut short'), { reason: 'ILLEGAL_TRANSITION' });
  assert.equal((await payment.read(leftBehind)).status, closed);
  assert(isOver(leftBehind));
});

test('the poller opens nothing for an order that is paid', async () => {
  const { leftBehind } = await paidBeside();
  await eventually(async () => {
    await bench.makeDue();
    return (await payment.read(leftBehind)).status === closed;
  }, 'the attempt is closed');
  assert(isOver(leftBehind));
});

for (const [what, prepare] of [
  ['open', () => undefined],
  ['failed', (paymentId: bigint) => bench.provider.fail(paymentId)],
  ['unknown to its provider', (paymentId: bigint) => bench.provider.sessions.delete(paymentId)],
] as const) {
  test(`a session that is ${what} when its order's time is long over is voided, and asked for no more`, async () => {
    const { paymentId } = await payment.pay(bench.order.add().orderId);
    prepare(paymentId);
    const overdue =
      'UPDATE payments SET expire_time = NOW(3) - INTERVAL 2 MINUTE WHERE payment_id = ?';
    await bench.sql(overdue, [paymentId]);
    await eventually(async () => {
      await bench.makeDue();
      return (await payment.read(paymentId)).status === closed;
    }, 'it is closed');
    const session = bench.provider.sessions.get(paymentId);
    assert(session === undefined || session.state.kind === 'closed');
    const rows = await bench.sql('SELECT next_time FROM payments WHERE payment_id = ?', [
      paymentId,
    ]);
    assert.equal(rows[0]?.next_time, null);
  });
}

test('a session that was paid in time is recorded, however late that is learnt', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  bench.provider.pay(paymentId);
  const overdue =
    'UPDATE payments SET expire_time = NOW(3) - INTERVAL 2 MINUTE WHERE payment_id = ?';
  await bench.sql(overdue, [paymentId]);
  await eventually(async () => {
    await bench.makeDue();
    return (await payment.read(paymentId)).settlement === recorded;
  }, 'it is recorded');
});

test('an attempt that comes to be stored after its order was closed leaves nothing', async () => {
  const { orderId } = bench.order.add();
  const pause = pauseAt('payment.before_insert_commit');
  const opening = payment.pay(orderId).catch((error) => error.reason);
  await pause.reached;
  assert.equal(await close(orderId), isClosed);
  pause.release();
  assert.equal(await opening, 'ILLEGAL_TRANSITION');
  const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
  assert.deepEqual(payments, []);
});

test('the poller closes what a process left unopened behind the fence', async () => {
  const { orderId } = bench.order.add();
  failpoints.set('payment.after_insert_payment', () => {
    throw new Error('died');
  });
  await payment.pay(orderId).catch(() => undefined);
  // As if the payment had been committed between a closing's fence and its look at the payments.
  const fence = 'INSERT INTO closed_orders (order_id, create_time) VALUES (?, NOW(3))';
  await bench.sql(fence, [orderId]);
  await eventually(async () => {
    await bench.makeDue();
    const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
    return payments.length === 1 && payments[0]?.status === closed;
  }, 'the payment is closed');
});

test('buyers beyond what can be opened at once are told OVERLOADED, not kept waiting', async () => {
  const process_ = await bench.start({ sessionsInFlightMax: 1 });
  // They come to the provider at one moment: for all to get there a slow machine takes longer than one of them may wait.
  const buying = new Set<unknown>();
  const here = new Set<unknown>();
  const gate = Promise.withResolvers<void>();
  failpoints.set('payment.before_session', async ({ orderId }) => {
    if (!buying.has(orderId)) return;
    here.add(orderId);
    await gate.promise;
  });
  const held = Promise.withResolvers<void>();
  bench.provider.before = () => held.promise;
  const buy = (): Promise<string> => {
    const { orderId } = bench.order.add();
    buying.add(orderId);
    return process_.pay(orderId).then(
      () => 'opened',
      (error: Refusal) => error.reason,
    );
  };
  const outcomes: Promise<string>[] = [];
  try {
    while (outcomes.length < 520) {
      outcomes.push(...Array.from({ length: 52 }, buy));
      await eventually(() => here.size === outcomes.length, `${outcomes.length} buyers have come`);
    }
    gate.resolve();
    assert.equal(await Promise.race(outcomes), 'OVERLOADED');
  } finally {
    gate.resolve();
    held.resolve();
    bench.provider.before = () => undefined;
  }
  const all = await Promise.all(outcomes);
  assert(all.filter((outcome) => outcome === 'opened').length >= 400);
  assert.deepEqual([...new Set(all)].toSorted(), ['OVERLOADED', 'opened']);
  await process_.stop();
});

const wrong: [string, (one: PaymentProcess) => Promise<unknown>, string[]][] = [
  ['an order id of 0', (one) => one.pay(0n), ['order_id']],
  ['a negative user', (one) => one.pay(1n, 'a', -1n), ['user_id']],
  ['user 0', (one) => one.pay(1n, 'a', 0n), ['user_id']],
  ['no request id', (one) => one.pay(1n, ''), ['request_id']],
  ['a request id of 129 characters', (one) => one.pay(1n, 'x'.repeat(129)), ['request_id']],
  ['a request id that is not ASCII', (one) => one.pay(1n, 'é'), ['request_id']],
  ['all of it wrong', (one) => one.pay(-1n, '', 0n), ['order_id', 'user_id', 'request_id']],
  ['payment 0', (one) => one.read(0n), ['payment_id']],
  ['a refund of payment 0', (one) => one.refund(0n, 'a'), ['payment_id']],
  ['a refund of nothing', (one) => one.refund(1n, 'a', 0n), ['amount.minor_units']],
  ['a refund below nothing', (one) => one.refund(1n, 'a', -5n), ['amount.minor_units']],
  ['a refund without a name', (one) => one.refund(1n, ''), ['request_id']],
  ['closing order 0', (one) => one.client.closePayment({ orderId: 0n }), ['order_id']],
  ['refunding order 0', (one) => one.client.refundOrder({ orderId: 0n }), ['order_id']],
  [
    'an empty webhook',
    (one) => one.client.handleWebhook({ provider: 'x', body: Buffer.alloc(0), headers: {} }),
    ['body'],
  ],
];
for (const [what, call, fields] of wrong) {
  test(`${what} is refused by name`, async () => {
    await assert.rejects(call(payment), (error: Refusal) => {
      assert.equal(error.reason, 'INVALID_REQUEST');
      assert.deepEqual(
        error.violations.map(({ field }) => field),
        fields,
      );
      return true;
    });
  });
}

test('the metrics and the probe tell what is going on', async () => {
  const at = `http://127.0.0.1:${payment.metricsPort}`;
  const text = await (await fetch(`${at}/metrics`)).text();
  for (const name of ['payment_create_total', 'payment_work_due', 'circuit_breaker_state']) {
    assert(text.includes(name), name);
  }
  // A database that does not answer for a second makes it say no.
  await eventually(async () => (await fetch(`${at}/readyz`)).status === 200, 'it is ready');
  assert.equal(
    (await payment.read((await payment.pay(bench.order.add().orderId)).paymentId)).status,
    pending,
  );
});
