import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PaymentSettlement, PaymentStatus } from '../../gen/sluice/payment/v1/payment.ts';
import {
  applyReport,
  canStillBePaid,
  type Payment,
  type SessionReport,
} from '../../services/payment/payment.ts';
import type { SessionState } from '../../services/payment/provider.ts';

const {
  PAYMENT_STATUS_PENDING: pending,
  PAYMENT_STATUS_SUCCEEDED: succeeded,
  PAYMENT_STATUS_FAILED: failed,
  PAYMENT_STATUS_CLOSED: closed,
} = PaymentStatus;
const { PAYMENT_SETTLEMENT_AWAITING: awaiting, PAYMENT_SETTLEMENT_SURPLUS: surplus } =
  PaymentSettlement;

const amount = { currencyCode: 'EUR', minorUnits: 1_000n };
const fresh: Payment = {
  ...{ paymentId: 1n, orderId: 2n, userId: 3n, requestId: 'a', provider: 'simulator' },
  ...{ reference: undefined, paymentUrl: '', status: pending, settlement: 0, amount },
  ...{ captured: undefined, failure: '', sessionOver: false },
  ...{ expireTime: new Date(0), createTime: new Date(0), updateTime: new Date(0) },
};
const paid: SessionState = { kind: 'paid', captured: amount };
const report = (state: SessionState, voided = false): SessionReport => ({
  ...{ paymentId: 1n, provider: 'simulator', reference: 'ses', state, voided },
});
const after = (...states: SessionState[]): Payment =>
  states.reduce((payment, state) => applyReport(payment, report(state)).payment, fresh);

const kinds: SessionState[] = [
  { kind: 'open' },
  { kind: 'failed', failure: 'no' },
  { kind: 'closed' },
  paid,
];

const table: [PaymentStatus, SessionState, PaymentStatus][] = [
  [pending, { kind: 'open' }, pending],
  [pending, { kind: 'failed', failure: 'no' }, failed],
  [pending, { kind: 'closed' }, closed],
  [pending, paid, succeeded],
  [failed, { kind: 'open' }, failed],
  [failed, { kind: 'failed', failure: 'other' }, failed],
  [failed, { kind: 'closed' }, closed],
  [failed, paid, succeeded],
  [closed, { kind: 'open' }, closed],
  [closed, { kind: 'failed', failure: 'no' }, closed],
  [closed, { kind: 'closed' }, closed],
  [closed, paid, succeeded],
  [succeeded, { kind: 'open' }, succeeded],
  [succeeded, { kind: 'failed', failure: 'no' }, succeeded],
  [succeeded, { kind: 'closed' }, succeeded],
  [succeeded, paid, succeeded],
];
const reached = new Map<PaymentStatus, Payment>([
  [pending, fresh],
  [failed, after({ kind: 'failed', failure: 'no' })],
  [closed, after({ kind: 'closed' })],
  [succeeded, after(paid)],
]);
for (const [from, state, to] of table) {
  test(`a payment in state ${from} that is reported ${state.kind} is in state ${to}`, () => {
    const before = reached.get(from) as Payment;
    const { effect, payment } = applyReport(before, report(state));
    assert.equal(payment.status, to);
    assert.equal(effect, from === to ? 'ignored' : 'applied');
    if (to === succeeded) assert.equal(payment.settlement, awaiting);
  });
}

test('however reports are repeated and ordered, money that came in once is settled once', () => {
  const states = fc.array(fc.constantFrom(...kinds), { maxLength: 12 });
  fc.assert(
    fc.property(states, (sequence) => {
      let payment = fresh;
      let settled = 0;
      for (const state of sequence) {
        const reported = applyReport(payment, report(state));
        if (reported.effect === 'applied' && reported.payment.captured) settled += 1;
        payment = reported.payment;
      }
      const wasPaid = sequence.some(({ kind }) => kind === 'paid');
      assert.equal(settled, wasPaid ? 1 : 0);
      assert.equal(payment.status === succeeded, wasPaid);
      const isOver = wasPaid || sequence.some(({ kind }) => kind === 'closed');
      assert.equal(canStillBePaid(payment), !isOver);
    }),
  );
});

for (const captured of [
  { currencyCode: 'EUR', minorUnits: 999n },
  { currencyCode: 'EUR', minorUnits: 1_001n },
  { currencyCode: 'USD', minorUnits: 1_000n },
]) {
  const what = `${captured.minorUnits} ${captured.currencyCode}`;
  test(`${what} captured for 1000 EUR is surplus and stays so`, () => {
    const first = applyReport(fresh, report({ kind: 'paid', captured }));
    assert.deepEqual([first.effect, first.payment.settlement], ['wrong_amount', surplus]);
    const second = applyReport(first.payment, report(paid));
    assert.deepEqual([second.effect, second.payment.settlement], ['ignored', surplus]);
  });
}

test('a failed payment can still be paid until its session is voided', () => {
  const payment = after({ kind: 'failed', failure: 'no' });
  assert(canStillBePaid(payment));
  const voided = applyReport(payment, report({ kind: 'failed', failure: 'no' }, true));
  assert.equal(voided.payment.status, failed);
  assert(!canStillBePaid(voided.payment));
});

test('a report of another session, or of another provider, changes nothing', () => {
  const known = { ...fresh, reference: 'ses' };
  for (const other of [{ reference: 'ses_2' }, { provider: 'stripe' }, { reference: undefined }]) {
    const { effect, payment } = applyReport(known, { ...report(paid), ...other });
    assert.equal(effect, 'other_session');
    assert.equal(payment, known);
  }
});

test('a session that is only seen open is remembered', () => {
  const { effect, payment } = applyReport(fresh, report({ kind: 'open' }));
  assert.equal(effect, 'ignored');
  assert.equal(payment.reference, 'ses');
});

test('a long failure is cut by characters, not in the middle of one', () => {
  const { failure } = after({ kind: 'failed', failure: '𝄞'.repeat(500) });
  assert.equal(failure, '𝄞'.repeat(200));
});
