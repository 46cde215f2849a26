import assert from 'node:assert/strict';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { ReplayedRefusal } from '../../../services/payment/provider-refusal.ts';
import { createStripeProvider } from '../../../services/payment/providers/stripe/stripe-provider.ts';
import { Deadline } from '../../../services/runtime/deadline.ts';
import { createLog } from '../../../services/runtime/log.ts';

// What Stripe may answer, said by a small HTTP server: stripe-mock has no memory and never fails.

type Answer =
  | { status: number; body: unknown; headers?: Readonly<Record<string, string>> }
  | 'hang'
  | 'drop';
interface Asked {
  readonly path: string;
  readonly key: string | undefined;
  readonly form: URLSearchParams;
}

let answers: Answer[] = [];
let asked: Asked[] = [];
const server = createServer(async (request, response) => {
  asked.push(await read(request));
  const answer = answers.shift() ?? { status: 500, body: {} };
  if (answer === 'hang') return;
  if (answer === 'drop') return void request.socket.destroy();
  response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers });
  response.end(JSON.stringify(answer.body));
});

async function read(request: IncomingMessage): Promise<Asked> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const key = request.headers['idempotency-key'];
  return {
    path: `${request.method} ${request.url}`,
    key: typeof key === 'string' ? key : undefined,
    form: new URLSearchParams(Buffer.concat(chunks).toString()),
  };
}

before(() => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)));
after(() => {
  server.close();
  server.closeAllConnections();
});

function providerAt(port = (server.address() as AddressInfo).port) {
  const settings = {
    apiKey: 'sk_test_1234567890123456789012345678',
    apiUrl: `http://127.0.0.1:${port}`,
    pageUrl: 'https://shop.example/pay',
    webhookKeys: [],
  };
  return createStripeProvider(settings, createLog('test', 'silent'));
}

function willAnswer(...next: Answer[]): void {
  answers = next;
  asked = [];
}

const ok = (body: unknown): Answer => ({ status: 200, body });
const refused = (status: number, error: Readonly<Record<string, unknown>>): Answer => ({
  status,
  body: { error },
});
const unexpectedState = refused(400, {
  type: 'invalid_request_error',
  code: 'payment_intent_unexpected_state',
  message: 'You cannot cancel this PaymentIntent',
});
const intent = (fields: Readonly<Record<string, unknown>>) => ({
  id: 'pi_1',
  object: 'payment_intent',
  amount: 500,
  amount_received: 0,
  currency: 'usd',
  client_secret: 'pi_1_secret_x',
  last_payment_error: null,
  ...fields,
});
const soon = (): Deadline => Deadline.after(10_000);
const session = {
  paymentId: 41n,
  orderId: 42n,
  amount: { currencyCode: 'USD', minorUnits: 500n },
  expireTime: new Date(),
};
const order = {
  refundId: 43n,
  reference: 'pi_1',
  amount: { currencyCode: 'USD', minorUnits: 200n },
};

test('a session asks with the payment as idempotency key and metadata, whenever it ends', async () => {
  willAnswer(ok(intent({ status: 'requires_payment_method' })), ok(intent({})));
  await providerAt().openSession(session, soon());
  await providerAt().openSession({ ...session, expireTime: new Date(0) }, soon());
  const [first, second] = asked;
  assert.equal(first?.path, 'POST /v1/payment_intents');
  assert.equal(first.key, 'payment-41');
  assert.equal(first.form.get('amount'), '500');
  assert.equal(first.form.get('currency'), 'usd');
  assert.equal(first.form.get('metadata[payment_id]'), '41');
  assert.equal(first.form.get('metadata[order_id]'), '42');
  assert.equal(first.form.get('automatic_payment_methods[enabled]'), 'true');
  assert.deepEqual([...(second as Asked).form], [...first.form]);
  assert.equal(second?.key, first.key);
});

test('yen count whole, and króna, which Stripe counts in hundredths, are converted both ways', async () => {
  for (const [currencyCode, sent] of [
    ['JPY', '500'],
    ['ISK', '50000'],
  ] as const) {
    willAnswer(ok(intent({})));
    await providerAt().openSession(
      { ...session, amount: { currencyCode, minorUnits: 500n } },
      soon(),
    );
    assert.equal(asked[0]?.form.get('amount'), sent);
    willAnswer(
      ok(
        intent({
          status: 'succeeded',
          amount_received: Number(sent),
          currency: currencyCode.toLowerCase(),
        }),
      ),
    );
    assert.deepEqual(await providerAt().readSession('pi_1', soon()), {
      kind: 'paid',
      captured: { currencyCode, minorUnits: 500n },
    });
  }
});

const declined = { code: 'card_declined', message: 'Your card was declined.' };
const states: [string, Readonly<Record<string, unknown>>, unknown][] = [
  ['waits for its first attempt', { status: 'requires_payment_method' }, { kind: 'open' }],
  ['waits for the buyer', { status: 'requires_action' }, { kind: 'open' }],
  ['is being processed', { status: 'processing' }, { kind: 'processing' }],
  ['is of a state that we do not know', { status: 'a_new_one' }, { kind: 'open' }],
  [
    'was declined',
    { status: 'requires_payment_method', last_payment_error: declined },
    { kind: 'failed', failure: 'Your card was declined.' },
  ],
  ['was cancelled', { status: 'canceled' }, { kind: 'closed' }],
  [
    'was paid, also after a declined attempt',
    { status: 'succeeded', amount_received: 499, last_payment_error: declined },
    { kind: 'paid', captured: { currencyCode: 'USD', minorUnits: 499n } },
  ],
];
for (const [name, fields, expected] of states) {
  test(`an intent that ${name} is ${JSON.stringify((expected as { kind: string }).kind)}`, async () => {
    willAnswer(ok(intent(fields)));
    assert.deepEqual(await providerAt().readSession('pi_1', soon()), expected);
  });
}

test('closing an intent that was paid meanwhile answers that it was paid', async () => {
  willAnswer(unexpectedState, ok(intent({ status: 'succeeded', amount_received: 500 })));
  const state = await providerAt().closeSession('pi_1', soon());
  assert.equal(state.kind, 'paid');
  assert.deepEqual(
    asked.map(({ path }) => path),
    ['POST /v1/payment_intents/pi_1/cancel', 'GET /v1/payment_intents/pi_1'],
  );
});

test('closing an intent twice answers closed twice', async () => {
  willAnswer(ok(intent({ status: 'canceled' })));
  assert.deepEqual(await providerAt().closeSession('pi_1', soon()), { kind: 'closed' });
  willAnswer(unexpectedState, ok(intent({ status: 'canceled' })));
  assert.deepEqual(await providerAt().closeSession('pi_1', soon()), { kind: 'closed' });
});

test('closing an intent that can neither be cancelled nor is paid yet answers that it is processed', async () => {
  willAnswer(unexpectedState, ok(intent({ status: 'processing' })));
  const state = await providerAt().closeSession('pi_1', soon());
  assert.deepEqual(state, { kind: 'processing' });
});

test('an intent that stays open although it was to be cancelled is unknown', async () => {
  willAnswer(unexpectedState, ok(intent({ status: 'requires_action' })));
  await assert.rejects(providerAt().closeSession('pi_1', soon()), {
    ...{ reason: 'OUTCOME_UNKNOWN', answered: true },
  });
});

test('money that cannot be read was taken all the same: the intent is unknown, never closed', async () => {
  const odd = { status: 'succeeded', currency: 'isk', amount_received: 50_050 };
  const unknown = { reason: 'OUTCOME_UNKNOWN' };
  willAnswer(ok(intent(odd)));
  await assert.rejects(providerAt().readSession('pi_1', soon()), unknown);
  willAnswer(unexpectedState, ok(intent(odd)));
  await assert.rejects(providerAt().closeSession('pi_1', soon()), unknown);
  willAnswer(ok(intent({ status: 'succeeded', currency: undefined })));
  await assert.rejects(providerAt().readSession('pi_1', soon()), unknown);
});

test('a refund asks with its own idempotency key', async () => {
  willAnswer(ok({ id: 're_1', status: 'pending' }));
  const state = await providerAt().refund(order, soon());
  assert.deepEqual(state, { kind: 'pending', reference: 're_1' });
  assert.equal(asked[0]?.path, 'POST /v1/refunds');
  assert.equal(asked[0].key, 'refund-43');
  assert.equal(asked[0].form.get('payment_intent'), 'pi_1');
  assert.equal(asked[0].form.get('amount'), '200');
  assert.equal(asked[0].form.get('metadata[refund_id]'), '43');
});

test('a refund that Stripe refuses has failed for good', async () => {
  willAnswer(
    refused(400, { type: 'invalid_request_error', message: 'Refund amount is too large' }),
    ok({ object: 'list', has_more: false, data: [] }),
  );
  const state = await providerAt().refund(order, soon());
  assert.equal(state.kind, 'failed');
  assert(state.kind === 'failed' && state.failure.includes('too large'));
});

test('"already refunded" by this very refund is its success', async () => {
  willAnswer(
    refused(400, { type: 'invalid_request_error', code: 'charge_already_refunded', message: '' }),
    ok({
      object: 'list',
      has_more: false,
      data: [{ id: 're_7', status: 'succeeded', metadata: { refund_id: '43' } }],
    }),
  );
  assert.deepEqual(await providerAt().refund(order, soon()), {
    kind: 'succeeded',
    reference: 're_7',
  });
});

test('a refund is found on a later page of those of its payment', async () => {
  willAnswer(
    ok({
      object: 'list',
      has_more: true,
      data: [{ id: 're_1', status: 'succeeded', metadata: { refund_id: '9' } }],
    }),
    ok({
      object: 'list',
      has_more: false,
      data: [
        {
          id: 're_2',
          status: 'failed',
          failure_reason: 'lost_or_stolen_card',
          metadata: { refund_id: '43' },
        },
      ],
    }),
  );
  assert.deepEqual(await providerAt().readRefund(order, soon()), {
    kind: 'failed',
    failure: 'lost_or_stolen_card',
  });
  assert.match(asked[1]?.path ?? '', /starting_after=re_1/);
});

const broken = { status: 500, body: { error: { type: 'api_error' } } };
const replayed = { ...broken, headers: { 'idempotent-replayed': 'true' } };

// What is not an answer says that Stripe is unwell; an answer is about the one payment, or about our settings.
const failures: [string, Answer[], string, answered: boolean][] = [
  ['a 500', [broken], 'OUTCOME_UNKNOWN', false],
  ['a 500 that Stripe stored under the key and repeats', [replayed], 'OUTCOME_UNKNOWN', true],
  [
    'a call with the same key that is under way (409)',
    [refused(409, { type: 'invalid_request_error', code: 'idempotency_key_in_use' })],
    'OUTCOME_UNKNOWN',
    true,
  ],
  ['a connection dropped twice', ['drop', 'drop'], 'OUTCOME_UNKNOWN', false],
  ['no JSON at all', [{ status: 200, body: undefined }], 'OUTCOME_UNKNOWN', false],
  ['a rate limit', [refused(429, { type: 'invalid_request_error' })], 'OVERLOADED', true],
  [
    'a lock that another call holds',
    [refused(429, { type: 'invalid_request_error', code: 'lock_timeout' })],
    'OVERLOADED',
    true,
  ],
  ['a key without the right', [refused(403, {})], 'DEPENDENCY_DOWN', true],
  [
    'the key used with other content',
    [refused(400, { type: 'idempotency_error', message: 'Keys for idempotent requests …' })],
    'INVALID_REQUEST',
    true,
  ],
  [
    'an amount below the minimum',
    [refused(400, { type: 'invalid_request_error', code: 'amount_too_small' })],
    'INVALID_REQUEST',
    true,
  ],
];
for (const [name, next, reason, answered] of failures) {
  test(`${name} is ${reason}, and ${answered ? 'an answer' : 'none'}`, async () => {
    willAnswer(...next);
    await assert.rejects(providerAt().openSession(session, soon()), { reason, answered });
  });
}

test('only the 500 that is repeated is known as such: it will be the answer for a day', async () => {
  for (const [answer, isReplayed] of [
    [broken, false],
    [replayed, true],
  ] as const) {
    willAnswer(answer);
    await assert.rejects(providerAt().openSession(session, soon()), (error: Error) => {
      assert.equal(error instanceof ReplayedRefusal, isReplayed);
      return true;
    });
  }
});

test('the time that a rate limit asks to wait is told on', async () => {
  for (const [headers, retryAfterMs] of [
    [{ 'retry-after': '7' }, 7_000],
    [{}, 0],
    [{ 'retry-after': 'soon' }, 0],
  ] as const) {
    willAnswer({ status: 429, body: { error: {} }, headers } as Answer);
    await assert.rejects(providerAt().openSession(session, soon()), { retryAfterMs });
  }
});

test('a dropped connection is repeated once by the package, under the same key', async () => {
  willAnswer('drop', ok(intent({})));
  await providerAt().openSession(session, soon());
  assert.deepEqual(
    asked.map(({ key }) => key),
    ['payment-41', 'payment-41'],
  );
});

test('silence ends at the deadline as OUTCOME_UNKNOWN', async () => {
  willAnswer('hang');
  await assert.rejects(providerAt().openSession(session, Deadline.after(150)), {
    reason: 'OUTCOME_UNKNOWN',
  });
});

test('nothing is sent when no time is left', async () => {
  willAnswer(ok(intent({})));
  const own = { ...session, paymentId: 51n };
  await assert.rejects(providerAt().openSession(own, Deadline.after(0)), {
    ...{ reason: 'OVERLOADED', answered: false },
  });
  // What was given up before, for its silence, may arrive only now.
  assert(!asked.some(({ key }) => key === 'payment-51'));
});

test('a server that is not there surely did nothing', async () => {
  // The discard port: nothing listens.
  await assert.rejects(providerAt(9).openSession(session, soon()), { reason: 'DEPENDENCY_DOWN' });
});
