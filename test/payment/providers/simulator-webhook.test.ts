import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import type { ProviderEvent } from '../../../services/payment/provider.ts';
import { createSimulatorProvider } from '../../../services/payment/providers/simulator/simulator-provider.ts';
import { createLog } from '../../../services/runtime/log.ts';
import { signatureHeader, signWebhook } from '../../../services/simulator/webhook-signature.ts';

const [firstKey, secondKey] = [
  'the first key of the tests of webhooks',
  'the second key of the tests of webhooks',
];
const provider = createSimulatorProvider(
  { url: 'http://127.0.0.1:9', apiKey: 'unused', webhookKeys: [firstKey, secondKey] },
  createLog('test', 'silent'),
);
const now = new Date('2027-03-04T05:06:07Z');
const nowS = now.getTime() / 1_000;

const paid = {
  id: 'evt_1',
  type: 'session.paid',
  data: {
    session: {
      id: 'ses_1',
      status: 'paid',
      captured: { currencyCode: 'USD', minorUnits: '9007199254740993' },
      metadata: { paymentId: '9007199254740995', orderId: '2' },
    },
  },
};
const sign = (body: string): string => signWebhook(body, firstKey, nowS);

function read(event: unknown, header: (body: string) => string = sign): ProviderEvent {
  const body = typeof event === 'string' ? event : JSON.stringify(event);
  return provider.readWebhook(Buffer.from(body), { [signatureHeader]: header(body) }, now);
}

const session = (fields: Readonly<Record<string, unknown>>, type = 'session.paid') => ({
  ...paid,
  type,
  data: { session: { ...paid.data.session, ...fields } },
});

test('a genuine webhook says what was paid, exactly', () => {
  assert.deepEqual(read(paid), {
    eventId: 'evt_1',
    type: 'session.paid',
    subject: {
      kind: 'session',
      paymentId: 9_007_199_254_740_995n,
      reference: 'ses_1',
      state: {
        kind: 'paid',
        captured: { currencyCode: 'USD', minorUnits: 9_007_199_254_740_993n },
      },
    },
  });
});

const genuine: [string, (body: string) => string][] = [
  ['signed with the second key', (body) => signWebhook(body, secondKey, nowS)],
  ['as old as is tolerated', (body) => signWebhook(body, firstKey, nowS - 300)],
  ['as far ahead as is tolerated', (body) => signWebhook(body, firstKey, nowS + 60)],
  ['signed with an unknown key first', (body) => sign(body).replace(',', `,v1=${'0'.repeat(64)},`)],
];
for (const [name, header] of genuine) {
  test(`a webhook ${name} is accepted`, () => {
    assert.equal(read(paid, header).eventId, 'evt_1');
  });
}

const false_: [string, (body: string) => string][] = [
  ['without a signature', () => ''],
  ['signed with another key', (body) => signWebhook(body, 'a key that nobody has', nowS)],
  ['that is too old', (body) => signWebhook(body, firstKey, nowS - 301)],
  ['from the future', (body) => signWebhook(body, firstKey, nowS + 61)],
  ['whose body was changed', (body) => sign(body.replace('evt_1', 'evt_2'))],
  ['whose time was changed', (body) => sign(body).replace(`t=${nowS}`, `t=${nowS - 1}`)],
  ['with two times', (body) => `t=${nowS},${sign(body)}`],
  ['without a time', (body) => sign(body).replace(/^t=\d+,/, '')],
  ['whose time is no number', (body) => sign(body).replace(/^t=\d+/, 't=soon')],
  ['with a shortened signature', (body) => sign(body).slice(0, -1)],
  ['with a signature in capitals', (body) => sign(body).toUpperCase()],
  ['whose header is nonsense', () => 'nonsense'],
];
for (const [name, header] of false_) {
  test(`a webhook ${name} is refused`, () => {
    assert.throws(() => read(paid, header), { reason: 'UNAUTHENTICATED' });
  });
}

test('a webhook without its header at all is refused', () => {
  assert.throws(() => provider.readWebhook(Buffer.from('{}'), {}, now), {
    reason: 'UNAUTHENTICATED',
  });
});

test('a genuine webhook that is no UTF-8 is INVALID_REQUEST', () => {
  const body = Buffer.from([0x7b, 0xff, 0x7d]);
  const digest = createHmac('sha256', firstKey).update(`${nowS}.`).update(body).digest('hex');
  const headers = { [signatureHeader]: `t=${nowS},v1=${digest}` };
  assert.throws(() => provider.readWebhook(body, headers, now), { reason: 'INVALID_REQUEST' });
});

const unreadable: [string, unknown][] = [
  ['no JSON', '{'],
  ['null', 'null'],
  ['without an id', { ...paid, id: undefined }],
  ['without a type', { ...paid, type: '' }],
  ['without a session', { ...paid, data: {} }],
  ['without a payment id', session({ metadata: {} })],
  ['of a payment id beyond int64', session({ metadata: { paymentId: '9223372036854775808' } })],
  ['paid, without what was captured', session({ captured: undefined })],
  ['paid, with an amount of zero', session({ captured: { currencyCode: 'USD', minorUnits: '0' } })],
  ['of an unknown status', session({ status: 'lost' })],
];
for (const [name, body] of unreadable) {
  test(`a genuine webhook that is ${name} is INVALID_REQUEST`, () => {
    assert.throws(() => read(body), { reason: 'INVALID_REQUEST' });
  });
}

test('failed, closed and refund events are read', () => {
  const failed = read(session({ status: 'failed', failure: 'declined' }, 'session.failed')).subject;
  assert(failed.kind === 'session');
  assert.deepEqual(failed.state, { kind: 'failed', failure: 'declined' });
  const closed = read(session({ status: 'closed' }, 'session.closed')).subject;
  assert(closed.kind === 'session');
  assert.deepEqual(closed.state, { kind: 'closed' });
  const refund = { id: 'ref_1', status: 'pending', metadata: { refundId: '8' } };
  assert.deepEqual(read({ id: 'evt_2', type: 'refund.pending', data: { refund } }).subject, {
    kind: 'refund',
    refundId: 8n,
    state: { kind: 'pending', reference: 'ref_1' },
  });
});

test('a genuine webhook of an unknown type is kept as unknown', () => {
  assert.deepEqual(read({ ...paid, type: 'dispute.opened' }), {
    eventId: 'evt_1',
    type: 'dispute.opened',
    subject: { kind: 'unknown' },
  });
});
