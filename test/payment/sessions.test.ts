import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  PaymentSettlement,
  PaymentStatus,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { CloseResult } from '../../gen/sluice/payment/v1/payment_service.ts';
import { attemptsMax } from '../../services/payment/create-payment.ts';
import { ReplayedRefusal } from '../../services/payment/provider-refusal.ts';
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

test('buyers beyond what can be opened at once are told OVERLOADED at once, and have left nothing behind', async () => {
  const process_ = await bench.start({ sessionsInFlightMax: 1 });
  const held = Promise.withResolvers<void>();
  let isOpening = false;
  bench.provider.before = () => {
    isOpening = true;
    return held.promise;
  };
  const first = bench.order.add();
  const opening = process_.pay(first.orderId);
  try {
    await eventually(() => isOpening, 'one is being opened');
    // Before the first is slow enough not to count, and no longer than that.
    const crowd = Array.from({ length: 60 }, () => bench.order.add().orderId);
    const outcomes = await Promise.allSettled(crowd.map((orderId) => process_.pay(orderId)));
    const refused = crowd.filter((_, index) => outcomes[index]?.status === 'rejected');
    assert(refused.length >= 50, `${refused.length} were refused`);
    for (const one of outcomes) {
      if (one.status !== 'rejected') continue;
      assert.equal(one.reason.reason, 'OVERLOADED');
      assert(one.reason.retryAfterMs >= 1_000);
    }
    const rows = await bench.sql('SELECT order_id FROM payments WHERE order_id IN (?)', [refused]);
    assert.deepEqual(rows, []);
  } finally {
    held.resolve();
    bench.provider.before = () => undefined;
  }
  assert.notEqual((await opening).paymentUrl, '');
  await process_.stop();
});

/** An opening whose answer is an error that the provider stored under its key: it gives that answer for a day. */
function storedError(): void {
  const answered = new Set<bigint | string>();
  bench.provider.before = (method, id) => {
    if (method !== 'openSession') return;
    if (answered.has(id)) {
      throw new ReplayedRefusal('OUTCOME_UNKNOWN', 'the provider answered 500', { answered: true });
    }
    answered.add(id);
    throw new Refusal('OUTCOME_UNKNOWN', 'the provider answered 500');
  };
}

test('an opening that will fail for a day has failed, and another attempt can pay', async () => {
  const { orderId } = bench.order.add();
  storedError();
  await assert.rejects(payment.pay(orderId, 'stuck'), { reason: 'OUTCOME_UNKNOWN' });
  const { status, failure, paymentUrl } = await payment.pay(orderId, 'stuck');
  assert.deepEqual([status, paymentUrl], [failed, '']);
  assert.match(failure, /begin another payment/);
  bench.provider.before = () => undefined;
  const next = await payment.pay(orderId, 'next');
  await payment.deliver(bench.provider.pay(next.paymentId));
  await untilPayment(payment, next.paymentId, (one) => one.settlement === recorded, 'recorded');
});

test('an order whose session nobody has seen is closed while the provider does not answer at all', async () => {
  const { orderId } = bench.order.add();
  bench.provider.before = lost;
  await assert.rejects(payment.pay(orderId), { reason: 'OUTCOME_UNKNOWN' });
  const before = [...bench.provider.calls.values()].reduce((sum, count) => sum + count, 0);
  assert.equal(await close(orderId), isClosed);
  const after = [...bench.provider.calls.values()].reduce((sum, count) => sum + count, 0);
  assert.equal(after, before);
  const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
  assert.deepEqual(
    payments.map(({ status, paymentUrl }) => [status, paymentUrl]),
    [[closed, '']],
  );
  bench.provider.before = () => undefined;
  await assert.rejects(payment.pay(orderId, 'second'), { reason: 'ILLEGAL_TRANSITION' });
});

for (const way of ['webhook', 'answer of the opening'] as const) {
  test(`money that comes in by a session that nobody should have seen goes back, by its ${way}`, async () => {
    const { orderId } = bench.order.add();
    const pause = way === 'webhook' ? undefined : pauseAt('payment.after_session');
    bench.provider.after = (method) => {
      if (method === 'openSession' && way === 'webhook') lost();
    };
    const opening = payment.pay(orderId).catch((error: Refusal) => error.reason);
    if (pause) await pause.reached;
    else assert.equal(await opening, 'OUTCOME_UNKNOWN');
    bench.provider.after = () => undefined;
    assert.equal(await close(orderId), isClosed);
    const row = bench.order.orders.get(orderId);
    assert(row);
    row.status = OrderStatus.ORDER_STATUS_CANCELLED;
    const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
    const paymentId = payments[0]?.paymentId as bigint;
    const event = bench.provider.pay(paymentId);
    if (pause) pause.release();
    else await payment.deliver(event);
    assert.equal(await opening, pause ? 'ILLEGAL_TRANSITION' : 'OUTCOME_UNKNOWN');
    const { refunds } = await untilPayment(
      payment,
      paymentId,
      (one) => one.refunds[0]?.status === RefundStatus.REFUND_STATUS_SUCCEEDED,
      'it is refunded',
    );
    assert.deepEqual(
      refunds.map(({ requestId, amount }) => [requestId, amount?.minorUnits]),
      [['surplus', 1_000n]],
    );
  });
}

const { CLOSE_RESULT_PROCESSING: isProcessing } = CloseResult;
for (const outcome of ['paid', 'refused'] as const) {
  test(`an order whose payment is in processing is not closed, its other sessions are; then it is ${outcome}`, async () => {
    const { orderId } = bench.order.add();
    const [debit, other] = [
      await payment.pay(orderId, 'debit'),
      await payment.pay(orderId, 'card'),
    ];
    const session = bench.provider.sessions.get(debit.paymentId);
    assert(session);
    session.state = { kind: 'processing' };
    for (const inBackground of [false, true, false]) {
      const { result } = await payment.client.closePayment({ orderId, inBackground });
      assert.equal(result, isProcessing);
    }
    assert(isOver(other.paymentId));
    assert.equal((await payment.read(debit.paymentId)).status, pending);
    await assert.rejects(payment.pay(orderId, 'third'), { reason: 'ILLEGAL_TRANSITION' });
    if (outcome === 'paid') {
      await payment.deliver(bench.provider.pay(debit.paymentId));
      assert.equal(await close(orderId), isPaid);
    } else {
      bench.provider.fail(debit.paymentId);
      assert.equal(await close(orderId), isClosed);
      assert(isOver(debit.paymentId));
    }
  });
}

test('a payment in processing is asked about and never voided when its time is long over', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  const session = bench.provider.sessions.get(paymentId);
  assert(session);
  session.state = { kind: 'processing' };
  const overdue =
    'UPDATE payments SET expire_time = NOW(3) - INTERVAL 2 MINUTE WHERE payment_id = ?';
  await bench.sql(overdue, [paymentId]);
  let reads = 0;
  let voids = 0;
  bench.provider.before = (method, id) => {
    if (id !== session.reference) return;
    reads += method === 'readSession' ? 1 : 0;
    voids += method === 'closeSession' ? 1 : 0;
  };
  await eventually(async () => {
    await bench.makeDue();
    return reads >= 3;
  }, 'it is asked about again and again');
  assert.equal(voids, 0);
  assert.equal((await payment.read(paymentId)).status, pending);
});

test('orders whose sessions cannot be voided when time is over do not cut off buyers who cancel', async () => {
  const process_ = await bench.start();
  const stuck = await Promise.all(
    Array.from({ length: 12 }, () => process_.pay(bench.order.add().orderId)),
  );
  const references = new Set<bigint | string>(stuck.map(({ paymentId }) => `ses_${paymentId}`));
  bench.provider.before = (method, id) => {
    if (method === 'closeSession' && references.has(id)) lost();
  };
  for (const { orderId } of stuck) {
    const call = process_.client.closePayment({ orderId, inBackground: true });
    await assert.rejects(call, { reason: /OUTCOME_UNKNOWN|DEPENDENCY_DOWN/ });
  }
  const { orderId } = await process_.pay(bench.order.add().orderId);
  const { result } = await process_.client.closePayment({ orderId });
  assert.equal(result, isClosed);
  await process_.stop();
});

test('a payment whose row others hold keeps no other order from being closed', async () => {
  const made = await Promise.all(
    Array.from({ length: 8 }, () => payment.pay(bench.order.add().orderId)),
  );
  const [held] = made;
  const connection = await bench.pool.getConnection();
  try {
    await connection.query('START TRANSACTION');
    await connection.query('SELECT failure FROM payments WHERE payment_id = ? FOR UPDATE', [
      held?.paymentId,
    ]);
    const stuck = close(held?.orderId as bigint).catch((error: Refusal) => error.reason);
    const others = await Promise.all(made.slice(1).map(({ orderId }) => close(orderId)));
    assert.deepEqual(new Set(others), new Set([isClosed]));
    assert.equal(await stuck, 'OUTCOME_UNKNOWN');
  } finally {
    await connection.query('ROLLBACK');
    connection.release();
  }
  assert.equal(await close(held?.orderId as bigint), isClosed);
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
