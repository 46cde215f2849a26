import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CloseReason, type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  decideBeginPayment,
  decideCancel,
  decideExpire,
  decideRecordPayment,
  decideRecordRefund,
  stepOf,
} from '../../services/order/order-changes.ts';

const stored = [
  'PENDING',
  'PAID',
  'REFUNDING',
  'REFUNDED',
  'CANCELLED',
  'QUEUED',
  'REJECTED',
  'ABORTED',
] as const;
type Name = (typeof stored)[number];
const statusOf = (name: Name): OrderStatus => OrderStatus[`ORDER_STATUS_${name}`];
const now = new Date('2026-01-01T12:00:00Z');
const later = new Date(now.getTime() + 1);
const eur = (minorUnits: bigint) => ({ currencyCode: 'EUR', minorUnits });

function current(name: Name, changes: Partial<Order> = {}, paymentBegun = false) {
  const order: Order = {
    orderId: 1n,
    userId: 2n,
    status: statusOf(name),
    items: [],
    total: eur(100n),
    createTime: now,
    expireTime: later,
    closeReason: CloseReason.CLOSE_REASON_UNSPECIFIED,
    requestId: 'r',
    version: 1,
    updateTime: now,
    paymentId: 0n,
    refunded: undefined,
    ...changes,
  };
  return { order, paymentBegun, now };
}

for (const name of stored) {
  test(`a payment of an order that is ${name} ${name === 'PENDING' ? 'begins in time' : 'does not begin'}`, () => {
    const pending = name === 'PENDING';
    assert.equal(decideBeginPayment(current(name)), pending ? 'begins' : 'notPending');
    assert.equal(
      decideBeginPayment(current(name, { expireTime: now })),
      pending ? 'late' : 'notPending',
    );
    const free = current(name, { total: eur(0n) });
    assert.equal(decideBeginPayment(free), pending ? 'free' : 'notPending');
  });

  test(`a payment of an order that is ${name} is recorded if it is the order’s`, () => {
    const payment = { paymentId: 7n, amount: eur(100n) };
    const mine = current(name, { paymentId: 7n });
    assert.equal(decideRecordPayment(mine, payment), 'recorded');
    const unpaid = current(name, { expireTime: new Date(0) });
    assert.equal(decideRecordPayment(unpaid, payment), name === 'PENDING' ? 'pays' : 'closed');
    assert.equal(decideRecordPayment(mine, { ...payment, amount: eur(99n) }), 'amountDiffers');
  });

  const cancels: Record<Name, [plain: string, begun: string]> = {
    PENDING: ['cancels', 'voidFirst'],
    PAID: ['refundFirst', 'refundFirst'],
    REFUNDING: ['unchanged', 'unchanged'],
    REFUNDED: ['unchanged', 'unchanged'],
    CANCELLED: ['unchanged', 'unchanged'],
    QUEUED: ['illegal', 'illegal'],
    REJECTED: ['illegal', 'illegal'],
    ABORTED: ['illegal', 'illegal'],
  };
  test(`a cancel of an order that is ${name} ${cancels[name].join(', or if its payment has begun ')}`, () => {
    const [plain, begun] = cancels[name];
    assert.equal(decideCancel(current(name), { voided: false }), plain);
    assert.equal(decideCancel(current(name, {}, true), { voided: false }), begun);
    assert.equal(decideCancel(current(name, {}, true), { voided: true }), plain);
  });

  test(`time ${name === 'PENDING' ? 'closes' : 'does not close'} an order that is ${name}`, () => {
    const due = { expireTime: now };
    const pending = name === 'PENDING';
    const expires = pending ? 'expires' : 'unchanged';
    assert.equal(decideExpire(current(name, due), { voided: false }), expires);
    assert.equal(decideExpire(current(name, due, true), { voided: true }), expires);
    assert.equal(
      decideExpire(current(name, due, true), { voided: false }),
      pending ? 'voidFirst' : 'unchanged',
    );
    assert.equal(decideExpire(current(name), { voided: true }), 'unchanged');
  });
}

/** The states that progress leads to, from each state that a paid order can have. */
const progress: [Name, { sum: bigint; done: boolean; known?: bigint }, Name[]][] = [
  ['PAID', { sum: 100n, done: false }, ['REFUNDING']],
  ['PAID', { sum: 40n, done: false }, []],
  ['PAID', { sum: 40n, done: true }, ['PAID']],
  ['PAID', { sum: 40n, done: true, known: 40n }, []],
  ['PAID', { sum: 40n, done: true, known: 60n }, []],
  ['PAID', { sum: 60n, done: true, known: 40n }, ['PAID']],
  ['PAID', { sum: 100n, done: true }, ['REFUNDING', 'REFUNDED']],
  ['PAID', { sum: 100n, done: true, known: 40n }, ['REFUNDING', 'REFUNDED']],
  ['REFUNDING', { sum: 100n, done: false }, []],
  ['REFUNDING', { sum: 40n, done: false }, []],
  ['REFUNDING', { sum: 40n, done: true }, ['REFUNDING']],
  ['REFUNDING', { sum: 40n, done: true, known: 40n }, []],
  ['REFUNDING', { sum: 100n, done: true }, ['REFUNDED']],
  ['REFUNDED', { sum: 100n, done: true, known: 100n }, []],
  ['REFUNDED', { sum: 100n, done: false, known: 100n }, []],
  ['REFUNDED', { sum: 40n, done: true, known: 100n }, []],
];

for (const [name, { sum, done, known }, states] of progress) {
  const told = `${sum} of 100 ${done ? 'done' : 'begun'}${known ? `, ${known} known` : ''}`;
  test(`refund of ${told}: an order that is ${name} goes to ${states.join(', ') || 'no new version'}`, () => {
    const order = { paymentId: 7n, refunded: known === undefined ? undefined : eur(known) };
    const decided = decideRecordRefund(current(name, order), {
      paymentId: 7n,
      refundedTotal: eur(sum),
      done,
      restock: true,
    });
    assert.ok(decided.kind === 'steps');
    assert.deepEqual(
      decided.steps.map(({ status }) => status),
      states.map(statusOf),
    );
    const last = decided.steps.at(-1);
    assert.equal(last?.refundedMinor, states.length > 0 && done ? sum : undefined);
    assert.equal(last?.restock ?? false, states.at(-1) === 'REFUNDED');
  });
}

for (const name of ['PENDING', 'CANCELLED', 'QUEUED', 'REJECTED', 'ABORTED'] as const) {
  test(`progress of a refund moves no order that is ${name}`, () => {
    const told = { paymentId: 7n, refundedTotal: eur(100n), done: true, restock: false };
    const named = decideRecordRefund(current(name, { paymentId: 7n }), told);
    assert.deepEqual(named, { kind: 'steps', steps: [] });
    assert.equal(decideRecordRefund(current(name), told).kind, 'invalid');
    assert.equal(decideRecordRefund(current(name), { ...told, paymentId: 0n }).kind, 'invalid');
  });
}

test('a step is taken only out of the state that its transition leaves', () => {
  assert.equal(stepOf('pay', statusOf('PENDING')).status, statusOf('PAID'));
  assert.throws(() => stepOf('pay', statusOf('CANCELLED')));
});
