import assert from 'node:assert/strict';
import { test } from 'node:test';
import Stripe from 'stripe';
import type { ProviderEvent } from '../../../services/payment/provider.ts';
import { createStripeProvider } from '../../../services/payment/providers/stripe/stripe-provider.ts';
import { createLog } from '../../../services/runtime/log.ts';

const [firstKey, secondKey] = [
  'whsec_the-first-key-of-the-tests-of-stripe',
  'whsec_the-second-key-of-the-tests-of-stripe',
];
const settings = {
  apiKey: 'sk_test_1234567890123456789012345678',
  apiUrl: 'http://127.0.0.1:9',
  pageUrl: 'https://shop.example/pay',
  webhookKeys: [firstKey, secondKey],
};
const provider = createStripeProvider(settings, createLog('test', 'silent'));
const { webhooks } = new Stripe(settings.apiKey);
const now = new Date('2027-03-04T05:06:07Z');
const nowS = now.getTime() / 1_000;

const paid = {
  id: 'evt_1',
  object: 'event',
  type: 'payment_intent.succeeded',
  data: {
    object: {
      id: 'pi_1',
      object: 'payment_intent',
      status: 'succeeded',
      amount: 500,
      amount_received: 500,
      currency: 'usd',
      last_payment_error: null,
      metadata: { payment_id: '9007199254740993', order_id: '2' },
    },
  },
};

/** Signs as Stripe does. */
function sign(payload: string, secret = firstKey, timestamp = nowS): string {
  return webhooks.generateTestHeaderString({ payload, secret, timestamp });
}

function read(event: unknown, header?: (payload: string) => string): ProviderEvent {
  const payload = typeof event === 'string' ? event : JSON.stringify(event);
  const signature = (header ?? sign)(payload);
  return provider.readWebhook(Buffer.from(payload), { 'stripe-signature': signature }, now);
}

/** An event of one of the types, about an intent or refund with these fields. */
function event(type: string, fields: Readonly<Record<string, unknown>>): unknown {
  return { ...paid, type, data: { object: { ...paid.data.object, ...fields } } };
}

test('a genuine webhook says what was paid', () => {
  assert.deepEqual(read(paid), {
    eventId: 'evt_1',
    type: 'payment_intent.succeeded',
    subject: {
      kind: 'session',
      paymentId: 9_007_199_254_740_993n,
      reference: 'pi_1',
      state: { kind: 'paid', captured: { currencyCode: 'USD', minorUnits: 500n } },
    },
  });
});

const genuine: [string, (payload: string) => string][] = [
  ['signed with the second key', (payload) => sign(payload, secondKey)],
  ['as old as is tolerated', (payload) => sign(payload, firstKey, nowS - 300)],
  ['as far ahead as is tolerated', (payload) => sign(payload, firstKey, nowS + 60)],
  ['signed with an unknown key too', (payload) => `${sign(payload)},v1=${'0'.repeat(64)}`],
];
for (const [name, header] of genuine) {
  test(`a webhook ${name} is accepted`, () => {
    assert.equal(read(paid, header).eventId, 'evt_1');
  });
}

const false_: [string, (payload: string) => string][] = [
  ['without a signature', () => ''],
  ['signed with another key', (payload) => sign(payload, 'whsec_a-key-that-nobody-has-anywhere')],
  ['that is too old', (payload) => sign(payload, firstKey, nowS - 301)],
  ['that is too old, under the second key', (payload) => sign(payload, secondKey, nowS - 301)],
  ['from the future', (payload) => sign(payload, firstKey, nowS + 61)],
  ['whose body was changed', (payload) => sign(payload.replace('500', '501'))],
  ['whose time was changed', (payload) => sign(payload).replace(`t=${nowS}`, `t=${nowS - 1}`)],
  ['with two times', (payload) => `t=${nowS + 900},${sign(payload)}`],
  ['without a time', (payload) => sign(payload).replace(/^t=\d+,/, '')],
  ['whose time is no number', (payload) => sign(payload).replace(/^t=\d+/, 't=soon')],
  ['with a signature of an older scheme only', (payload) => sign(payload).replace('v1=', 'v0=')],
  ['whose header is nonsense', () => 'nonsense'],
];
for (const [name, header] of false_) {
  test(`a webhook ${name} is refused`, () => {
    assert.throws(() => read(paid, header), { reason: 'UNAUTHENTICATED' });
  });
}

test('a webhook without its header at all is refused', () => {
  assert.throws(() => provider.readWebhook(Buffer.from(JSON.stringify(paid)), {}, now), {
    reason: 'UNAUTHENTICATED',
  });
});

const unreadable: [string, unknown][] = [
  ['no JSON', '{'],
  ['null', 'null'],
  ['without an id', { ...paid, id: undefined }],
  ['without a type', { ...paid, type: 7 }],
  ['paid, without an amount', event('payment_intent.succeeded', { amount_received: undefined })],
];
for (const [name, body] of unreadable) {
  test(`a genuine webhook that is ${name} is INVALID_REQUEST`, () => {
    assert.throws(() => read(body), { reason: 'INVALID_REQUEST' });
  });
}

const refund = { id: 're_1', object: 'refund', metadata: { refund_id: '8' } };
const subjects: [string, Readonly<Record<string, unknown>>, unknown][] = [
  [
    'payment_intent.payment_failed',
    {
      status: 'requires_payment_method',
      last_payment_error: { message: 'Your card was declined.' },
    },
    { kind: 'failed', failure: 'Your card was declined.' },
  ],
  ['payment_intent.canceled', { status: 'canceled' }, { kind: 'closed' }],
  ['refund.created', { ...refund, status: 'pending' }, { kind: 'pending', reference: 're_1' }],
  ['refund.updated', { ...refund, status: 'succeeded' }, { kind: 'succeeded', reference: 're_1' }],
  [
    'charge.refund.updated',
    { ...refund, status: 'succeeded' },
    { kind: 'succeeded', reference: 're_1' },
  ],
  [
    'refund.failed',
    { ...refund, status: 'failed', failure_reason: 'expired_or_canceled_card' },
    { kind: 'failed', failure: 'expired_or_canceled_card' },
  ],
];
for (const [type, fields, state] of subjects) {
  test(`${type} is read`, () => {
    const { subject } = read(event(type, fields));
    assert(subject.kind !== 'unknown');
    assert.deepEqual(subject.state, state);
    if (subject.kind === 'refund') assert.equal(subject.refundId, 8n);
  });
}

const unknown: [string, unknown][] = [
  ['of another type', event('customer.created', {})],
  ['about a payment of somebody else', event('payment_intent.succeeded', { metadata: {} })],
  ['about a refund made by hand', event('refund.updated', { ...refund, metadata: {} })],
  [
    'about a payment id that is none',
    event('payment_intent.succeeded', { metadata: { payment_id: '-1' } }),
  ],
];
for (const [name, body] of unknown) {
  test(`a genuine webhook ${name} is kept as unknown`, () => {
    assert.deepEqual(read(body).subject, { kind: 'unknown' });
  });
}
