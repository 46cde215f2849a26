import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  type Payment,
  PaymentSettlement,
  type Refund,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { lost } from './fake-provider.ts';
import {
  type PaymentBench,
  type PaymentProcess,
  startPaymentBench,
  untilPayment,
} from './support.ts';

const { PAYMENT_SETTLEMENT_RECORDED: recorded } = PaymentSettlement;
const {
  REFUND_STATUS_SUCCEEDED: succeeded,
  REFUND_STATUS_FAILED: failed,
  REFUND_STATUS_SENT: sent,
} = RefundStatus;

let bench: PaymentBench;
let payment: PaymentProcess;

before(async () => {
  bench = await startPaymentBench('refunds');
  payment = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.order.before = () => undefined;
  bench.order.after = () => undefined;
  bench.provider.before = () => undefined;
  bench.provider.after = () => undefined;
  bench.provider.refundAs = 'succeeded';
  payment.closeCircuit();
});
after(() => bench.stop());

/** A payment of 1,000 cents that pays its order. */
async function paid(): Promise<Payment> {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  await payment.deliver(bench.provider.pay(paymentId));
  return await untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'recorded');
}

const untilDone = async (paymentId: bigint, hurry = false): Promise<Payment> => {
  await eventually(async () => {
    if (hurry) await bench.makeDue();
    const left = await bench.sql(
      'SELECT 1 FROM refunds WHERE payment_id = ? AND next_time IS NOT NULL',
      [paymentId],
    );
    return left.length === 0;
  }, 'no refund is left to do');
  return await payment.read(paymentId);
};
const told = (orderId: bigint) =>
  bench.order.refunded
    .filter((one) => one.orderId === orderId)
    .map(({ refundedTotal, done, restock }) => [refundedTotal?.minorUnits, done, restock]);
const sentBack = (paymentId: bigint): bigint =>
  [...bench.provider.refunds.values()]
    .filter(({ order, state }) => order.reference === `ses_${paymentId}` && state.kind !== 'failed')
    .reduce((sum, { order }) => sum + order.amount.minorUnits, 0n);

test('partial refunds go back one by one up to what was paid, and order learns every sum', async () => {
  const { paymentId, orderId } = await paid();
  await payment.refund(paymentId, 'a', 300n);
  await untilDone(paymentId);
  assert.deepEqual(told(orderId), [[300n, true, false]]);
  await assert.rejects(payment.refund(paymentId, 'too much', 701n), {
    reason: 'INVALID_REQUEST',
    message: 'amount: 700 minor units are left to refund.',
  });
  await payment.refund(paymentId, 'rest', undefined, true);
  const { refunds } = await untilDone(paymentId);
  assert.deepEqual(
    refunds.map(({ requestId, amount, status }) => [requestId, amount?.minorUnits, status]),
    [
      ['a', 300n, succeeded],
      ['rest', 700n, succeeded],
    ],
  );
  assert.deepEqual(told(orderId), [
    [300n, true, false],
    [1_000n, false, false],
    [1_000n, true, true],
  ]);
  await assert.rejects(payment.refund(paymentId, 'again'), { reason: 'INVALID_REQUEST' });
  assert.equal(sentBack(paymentId), 1_000n);
});

test('refunds that race for the same money never exceed what was paid', async () => {
  const { paymentId } = await paid();
  const other = await bench.start();
  const asked = await Promise.allSettled(
    Array.from({ length: 20 }, (_, index) =>
      (index % 2 ? payment : other).refund(paymentId, `race ${index}`, 300n),
    ),
  );
  const refusals = asked.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []));
  assert.equal(asked.length - refusals.length, 3);
  for (const refusal of refusals) assert.equal(refusal.reason, 'INVALID_REQUEST');
  await untilDone(paymentId);
  assert.equal(sentBack(paymentId), 900n);
  await other.stop();
});

test('the same refund asked for again, also all at once, is one refund', async () => {
  const { paymentId } = await paid();
  const answers = await Promise.all(
    Array.from({ length: 10 }, () => payment.refund(paymentId, 'same', 400n)),
  );
  assert.equal(new Set(answers.map(({ refund }) => refund?.refundId)).size, 1);
  await untilDone(paymentId);
  const { refund } = await payment.refund(paymentId, 'same', 400n);
  assert.equal(refund?.status, succeeded);
  assert.equal(sentBack(paymentId), 400n);
});

const otherContent: [string, bigint | undefined, boolean][] = [
  ['another amount', 500n, false],
  ['no amount', undefined, false],
  ['restock', 400n, true],
];
for (const [what, minorUnits, restock] of otherContent) {
  test(`a refund's request id with ${what} is refused as reused`, async () => {
    const { paymentId } = await paid();
    await payment.refund(paymentId, 'same', 400n);
    const again = payment.refund(paymentId, 'same', minorUnits, restock);
    await assert.rejects(again, { reason: 'IDEMPOTENCY_KEY_REUSED' });
    // Tests below look at every refund that the provider is asked for.
    await untilDone(paymentId);
  });
}

test('restock is refused unless all that is left goes back', async () => {
  const { paymentId } = await paid();
  await assert.rejects(payment.refund(paymentId, 'part', 400n, true), (error: Refusal) => {
    assert.deepEqual(
      error.violations.map(({ field }) => field),
      ['restock'],
    );
    return true;
  });
});

test('a payment that pays nothing cannot be refunded', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  await assert.rejects(payment.refund(paymentId, 'a'), { reason: 'ILLEGAL_TRANSITION' });
  await assert.rejects(payment.refund(paymentId + 1n, 'a'), { reason: 'NOT_FOUND' });
});

test('only operators may refund', async () => {
  const request = { paymentId: 1n, requestId: 'a', reason: '', restock: false, amount: undefined };
  await assert.rejects(payment.client.refundPayment(request), { reason: 'UNAUTHENTICATED' });
});

const answersLost = ['before', 'after'] as const;
for (const moment of answersLost) {
  test(`a refund whose answer is lost ${moment} the provider acted is made once, and asked for first`, async () => {
    const { paymentId, orderId } = await paid();
    const asked: string[] = [];
    let failures = 0;
    const note = (method: string): void => {
      if (/refund/i.test(method)) asked.push(method);
    };
    const fail = (method: string): void => {
      if (method !== 'refund') return;
      failures += 1;
      if (failures <= 3) lost();
    };
    bench.provider.before = (method) => {
      note(method);
      if (moment === 'before') fail(method);
    };
    if (moment === 'after') bench.provider.after = fail;
    await payment.refund(paymentId, 'a', 400n);
    await untilDone(paymentId, true);
    assert.equal(sentBack(paymentId), 400n);
    const rounds = asked.join(' ');
    assert.match(rounds, /^refund readRefund/);
    assert(!/refund refund/.test(rounds), rounds);
    assert.deepEqual(told(orderId), [[400n, true, false]]);
  });
}

const places = [
  'before_refund_note_commit',
  'after_refund_note_commit',
  'after_claim_refunds',
  'before_refund',
  'after_refund',
  'before_refund_commit',
  'after_refund_commit',
  'before_tell_refund',
  'after_tell_refund',
];
for (const place of places) {
  test(`a worker that dies once at payment.${place} leaves one refund, told to order`, async () => {
    const { paymentId, orderId } = await paid();
    let hits = 0;
    failpoints.set(`payment.${place}`, () => {
      hits += 1;
      if (hits === 1) throw new Error('died');
    });
    await eventually(
      () =>
        payment.refund(paymentId, 'a').then(
          () => true,
          () => false,
        ),
      'the refund is noted down',
    );
    const { refunds } = await untilDone(paymentId, true);
    assert(hits > 0);
    assert.deepEqual(
      refunds.map(({ status }) => status),
      [succeeded],
    );
    assert.equal(sentBack(paymentId), 1_000n);
    assert.deepEqual(told(orderId).at(-1), [1_000n, true, false]);
    assert(told(orderId).some(([, done]) => done === false));
  });
}

test('two workers share the refunds, and each is made once', async () => {
  const other = await bench.start();
  const payments = await Promise.all(Array.from({ length: 12 }, () => paid()));
  const calls = new Map<bigint | string, number>();
  bench.provider.before = (method, id) => {
    if (method === 'refund') calls.set(id, (calls.get(id) ?? 0) + 1);
  };
  await Promise.all(payments.map(({ paymentId }) => payment.refund(paymentId, 'all')));
  for (const { paymentId } of payments) {
    await untilDone(paymentId);
    assert.equal(sentBack(paymentId), 1_000n);
  }
  assert.deepEqual(new Set(calls.values()), new Set([1]));
  await other.stop();
});

/** Whatever the provider is asked of these, it does not answer before `release`. */
function silentAbout(isMeant: (method: string, id: bigint | string) => boolean) {
  const held = Promise.withResolvers<void>();
  let asked = 0;
  bench.provider.before = async (method, id) => {
    if (!isMeant(method, id)) return;
    asked += 1;
    await held.promise;
    lost();
  };
  return { asked: () => asked, release: held.resolve };
}

test('refunds that hang, more of them than there are slots, hold up no others', async () => {
  const process_ = payment;
  const stuck = await Promise.all(Array.from({ length: 24 }, () => paid()));
  const hanging = new Set<bigint | string>();
  const silence = silentAbout((method, id) => method === 'refund' && hanging.has(id));
  try {
    for (const { paymentId } of stuck) {
      const { refund } = await process_.refund(paymentId, 'stuck', 100n);
      hanging.add(refund?.refundId as bigint);
    }
    // The first may have been sent before it was known to hang.
    await eventually(() => silence.asked() >= 16, 'they hang');
    const others = await Promise.all(Array.from({ length: 12 }, () => paid()));
    for (const { paymentId } of others) await process_.refund(paymentId, 'quick', 100n);
    // While the others are asked about, which is what their attempts' time is for.
    const done = async (paymentId: bigint): Promise<boolean> =>
      (await payment.read(paymentId)).refunds[0]?.status === succeeded;
    await eventually(
      async () => (await Promise.all(others.map((one) => done(one.paymentId)))).every(Boolean),
      'the others have gone back',
      { withinMs: 12_000 },
    );
    assert(silence.asked() >= 16);
  } finally {
    silence.release();
    bench.provider.before = () => undefined;
  }
  for (const { paymentId } of stuck) await untilDone(paymentId, true);
});

test('silent sessions that are asked about hold up no refund', async () => {
  const made = await Promise.all(
    Array.from({ length: 24 }, () => payment.pay(bench.order.add().orderId)),
  );
  const references = new Set<bigint | string>(made.map(({ paymentId }) => `ses_${paymentId}`));
  const { paymentId } = await paid();
  const silence = silentAbout((method, id) => method === 'readSession' && references.has(id));
  try {
    await bench.makeDue();
    await eventually(() => silence.asked() >= 16, 'they are asked about');
    await payment.refund(paymentId, 'quick', 100n);
    await eventually(
      async () => (await payment.read(paymentId)).refunds[0]?.status === succeeded,
      'the refund has gone back',
      { withinMs: 12_000 },
    );
  } finally {
    silence.release();
  }
});

test('a loop whose attempts all fail shows since when', async () => {
  const { paymentId } = await paid();
  const ageOf = async (): Promise<number> => {
    const text = await (await fetch(`http://127.0.0.1:${payment.metricsPort}/metrics`)).text();
    const line = text.split('\n').find((one) => one.startsWith('loop_age_seconds{loop="refunds"'));
    return Number(line?.split(' ').at(-1));
  };
  bench.provider.before = (method) => {
    if (/refund/i.test(method)) lost();
  };
  await payment.refund(paymentId, 'fails', 100n);
  let last = 0;
  let rises = 0;
  await eventually(async () => {
    const age = await ageOf();
    if (age > last) rises += 1;
    last = age;
    return rises >= 5 && age > 4;
  }, 'the age rises');
  bench.provider.before = () => undefined;
  await untilDone(paymentId, true);
  await eventually(async () => (await ageOf()) < 4, 'it is young again');
});

test('a refund that the provider refuses for good is FAILED with its word and leaves room for another', async () => {
  const { paymentId, orderId } = await paid();
  bench.provider.refundAs = 'failed';
  await payment.refund(paymentId, 'a');
  const { refunds } = await untilDone(paymentId);
  assert.deepEqual([refunds[0]?.status, refunds[0]?.failure], [failed, 'the card is gone']);
  bench.provider.refundAs = 'succeeded';
  await payment.refund(paymentId, 'b');
  await untilDone(paymentId);
  assert.equal(sentBack(paymentId), 1_000n);
  assert.deepEqual(told(orderId).at(-1), [1_000n, true, false]);
});

const refunded = ({ refunds }: Payment): unknown[] =>
  refunds.map(({ requestId, amount, status }) => [requestId, amount?.minorUnits, status]);

/** A payment of 700 cents, too little for its order, whose refund is as the provider answers it. */
async function surplus(refundAs: 'failed' | 'pending', currencyCode = 'EUR'): Promise<Payment> {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  bench.provider.refundAs = refundAs;
  await payment.deliver(bench.provider.pay(paymentId, { currencyCode, minorUnits: 700n }));
  const status = refundAs === 'failed' ? failed : sent;
  const isAnswered = (one: Payment): boolean => one.refunds[0]?.status === status;
  const made = await untilPayment(payment, paymentId, isAnswered, 'the provider has answered');
  bench.provider.refundAs = 'succeeded';
  return made;
}

test('what the provider refused to give back of a surplus payment goes back when operators ask again', async () => {
  const { paymentId, orderId } = await surplus('failed');
  await payment.refund(paymentId, 'a', 300n);
  await untilDone(paymentId);
  await assert.rejects(payment.refund(paymentId, 'too much', 401n), {
    reason: 'INVALID_REQUEST',
    message: 'amount: 400 minor units are left to refund.',
  });
  // A webhook that tells the end, too, leaves nothing to do.
  bench.provider.refundAs = 'pending';
  await payment.refund(paymentId, 'b');
  const isSent = ({ refunds }: Payment): boolean => refunds[2]?.status === sent;
  const { refunds } = await untilPayment(payment, paymentId, isSent, 'the rest is sent');
  const { refundId } = refunds[2] as Refund;
  const state = { kind: 'succeeded', reference: `ref_${refundId}` } as const;
  const subject = { kind: 'refund', refundId, state } as const;
  await payment.deliver({ eventId: `evt_${refundId}`, type: 'refund.updated', subject });
  assert.deepEqual(refunded(await untilDone(paymentId)), [
    ['surplus', 700n, failed],
    ['a', 300n, succeeded],
    ['b', 400n, succeeded],
  ]);
  assert.equal(sentBack(paymentId), 700n);
  await assert.rejects(payment.refund(paymentId, 'c'), { reason: 'INVALID_REQUEST' });
  assert.deepEqual(told(orderId), []);
});

test('a surplus payment whose refund is under way has nothing left to give back', async () => {
  const { paymentId } = await surplus('pending');
  await assert.rejects(payment.refund(paymentId, 'a'), {
    reason: 'INVALID_REQUEST',
    message: 'amount: 0 minor units are left to refund.',
  });
});

test('a surplus payment goes back in the currency that was paid, and never puts units back on sale', async () => {
  const { paymentId } = await surplus('failed', 'USD');
  const fieldsOf = (wrong: Promise<unknown>): Promise<string[]> =>
    wrong.then(
      () => [],
      ({ violations }: Refusal) => violations.map(({ field }) => field),
    );
  assert.deepEqual(await fieldsOf(payment.refund(paymentId, 'a', 700n)), ['amount.currency_code']);
  const restocked = payment.refund(paymentId, 'a', undefined, true);
  assert.deepEqual(await fieldsOf(restocked), ['restock']);
  const { refund } = await payment.refund(paymentId, 'a');
  assert.deepEqual(refund?.amount, { currencyCode: 'USD', minorUnits: 700n });
});

test('a refund that the provider does not accept at all is FAILED, not repeated for ever', async () => {
  const { paymentId } = await paid();
  bench.provider.before = (method) => {
    if (method === 'refund') throw new Refusal('INVALID_REQUEST', 'no such charge');
  };
  await payment.refund(paymentId, 'a');
  const { refunds } = await untilDone(paymentId);
  assert.deepEqual([refunds[0]?.status, refunds[0]?.failure], [failed, 'no such charge']);
});

test('a refund that is pending is done when its webhook comes, and again does nothing', async () => {
  const { paymentId, orderId } = await paid();
  bench.provider.refundAs = 'pending';
  await payment.refund(paymentId, 'a');
  const waiting = await untilPayment(
    payment,
    paymentId,
    (one) => one.refunds[0]?.status === sent,
    'the refund is sent',
  );
  const { refundId } = waiting.refunds[0] as Refund;
  const state = { kind: 'succeeded', reference: `ref_${refundId}` } as const;
  const subject = { kind: 'refund', refundId, state } as const;
  await payment.deliver({ eventId: `evt_${refundId}`, type: 'refund.updated', subject });
  await payment.deliver({ eventId: `evt_again_${refundId}`, type: 'refund.updated', subject });
  const { refunds } = await untilDone(paymentId);
  assert.equal(refunds[0]?.status, succeeded);
  assert.equal(told(orderId).filter(([, done]) => done).length, 1);
});

test('a refund that is pending is asked for until it is done', async () => {
  const { paymentId } = await paid();
  bench.provider.refundAs = 'pending';
  await payment.refund(paymentId, 'a');
  const atProvider = () =>
    [...bench.provider.refunds.values()].find(
      ({ order }) => order.reference === `ses_${paymentId}`,
    );
  await eventually(atProvider, 'the provider has it');
  const stored = atProvider();
  assert(stored);
  stored.state = { kind: 'succeeded', reference: 'ref' };
  const { refunds } = await untilDone(paymentId, true);
  assert.equal(refunds[0]?.status, succeeded);
});

test('order is told of a refund until it answers', async () => {
  const { paymentId, orderId } = await paid();
  let calls = 0;
  bench.order.before = (method) => {
    calls += method === 'recordRefund' ? 1 : 0;
    if (method === 'recordRefund' && calls <= 3) throw new Refusal('DEPENDENCY_DOWN');
  };
  await payment.refund(paymentId, 'a', 100n);
  await untilDone(paymentId, true);
  assert.deepEqual(told(orderId), [[100n, true, false]]);
  assert.equal(sentBack(paymentId), 100n);
});

test('a cancelled order gives back what is left, once, however often it is asked', async () => {
  const { paymentId, orderId } = await paid();
  await payment.refund(paymentId, 'part', 250n);
  await untilDone(paymentId);
  const answers = await Promise.all(
    Array.from({ length: 5 }, () => payment.client.refundOrder({ orderId })),
  );
  assert.equal(new Set(answers.map(({ refund }) => refund?.refundId)).size, 1);
  const { refund } = answers[0] as { refund: Refund };
  assert.deepEqual([refund.requestId, refund.amount?.minorUnits], ['cancel', 750n]);
  await untilDone(paymentId);
  assert.equal(sentBack(paymentId), 1_000n);
  assert.deepEqual(told(orderId).at(-1), [1_000n, true, false]);
});

test('an order whose money is back already is answered with the refund that did it', async () => {
  const { paymentId, orderId } = await paid();
  const { refund: whole } = await payment.refund(paymentId, 'all');
  const { refund } = await payment.client.refundOrder({ orderId });
  assert.equal(refund?.refundId, whole?.refundId);
});

test('an order that knows of its payment before this service does is refunded all the same', async () => {
  const { orderId } = bench.order.add();
  const { paymentId } = await payment.pay(orderId);
  let isLost = true;
  bench.order.after = (method) => {
    if (method === 'recordPayment' && isLost) throw new Refusal('OUTCOME_UNKNOWN');
  };
  let isTold = false;
  failpoints.set('payment.after_record', ({ paymentIds }) => {
    isTold ||= (paymentIds as bigint[]).includes(paymentId);
  });
  await payment.deliver(bench.provider.pay(paymentId));
  // Whoever asks while that call is under way would share its lost answer.
  await eventually(() => isTold, 'order was told, and its answer is lost');
  assert.equal(bench.order.orders.get(orderId)?.paymentId, paymentId);
  isLost = false;
  const { refund } = await payment.client.refundOrder({ orderId });
  assert.equal(refund?.amount?.minorUnits, 1_000n);
});

test('an order that nothing pays has nothing to give back', async () => {
  const { orderId } = bench.order.add();
  await payment.pay(orderId);
  await assert.rejects(payment.client.refundOrder({ orderId }), { reason: 'NOT_FOUND' });
});
