import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Session } from '../../services/payment/provider.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { eventually } from '../support/eventually.ts';
import { apiKey, type RunningSimulator, startSimulator } from './support.ts';

let simulator: RunningSimulator;
let nowMs = Date.parse('2027-01-02T03:04:05Z');

before(async () => {
  simulator = await startSimulator({}, { now: () => nowMs });
});
after(() => simulator.stop());

const soon = (): Deadline => Deadline.after(10_000);
const usd = (minorUnits: bigint) => ({ currencyCode: 'USD', minorUnits });
let paymentIds = 9_007_199_254_740_993n;

function wanted(minorUnits = 1_999n) {
  paymentIds += 1n;
  return {
    paymentId: paymentIds,
    orderId: 7n,
    amount: usd(minorUnits),
    expireTime: new Date(nowMs + 60_000),
  };
}

const open = (minorUnits?: bigint): Promise<Session> =>
  simulator.provider.openSession(wanted(minorUnits), soon());
const pay = (reference: string) => simulator.call('POST', `/v1/sessions/${reference}/pay`);
const read = (reference: string) => simulator.provider.readSession(reference, soon());

test('a payment has one session, however often it is opened and whatever end is asked for', async () => {
  const request = wanted();
  const sessions = await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      simulator.provider.openSession(
        { ...request, expireTime: new Date(nowMs + 60_000 + index) },
        soon(),
      ),
    ),
  );
  assert.equal(new Set(sessions.map(({ reference }) => reference)).size, 1);
  assert.deepEqual(await read(sessions[0]?.reference ?? ''), { kind: 'open' });
});

test('another amount under the key of a payment is refused', async () => {
  const request = wanted();
  await simulator.provider.openSession(request, soon());
  await assert.rejects(
    simulator.provider.openSession({ ...request, amount: usd(2_000n) }, soon()),
    { reason: 'INVALID_REQUEST' },
  );
});

test('a paid session tells what was captured, exactly, and can be paid only once', async () => {
  const amount = 9_007_199_254_740_993n;
  const { reference } = await open(amount);
  const paid = { kind: 'paid', captured: usd(amount) };
  assert.equal((await pay(reference)).status, 200);
  assert.equal((await pay(reference)).body.captured.minorUnits, String(amount));
  assert.deepEqual(await read(reference), paid);
  assert.deepEqual(await simulator.provider.closeSession(reference, soon()), paid);
});

test('a failed attempt leaves the session payable', async () => {
  const { reference } = await open();
  await simulator.call('POST', `/v1/sessions/${reference}/fail`);
  assert.deepEqual(await read(reference), { kind: 'failed', failure: 'the card was declined' });
  assert.equal((await pay(reference)).status, 200);
  assert.equal((await read(reference)).kind, 'paid');
});

test('a closed session stays closed and is not paid', async () => {
  const { reference } = await open();
  assert.deepEqual(await simulator.provider.closeSession(reference, soon()), { kind: 'closed' });
  assert.deepEqual(await simulator.provider.closeSession(reference, soon()), { kind: 'closed' });
  const { status, body } = await pay(reference);
  assert.equal(status, 409);
  assert.equal(body.error.code, 'session_closed');
  assert.deepEqual(await read(reference), { kind: 'closed' });
});

test('a session is closed from the moment on when it ends', async () => {
  const { reference } = await open();
  nowMs += 59_999;
  assert.deepEqual(await read(reference), { kind: 'open' });
  nowMs += 1;
  assert.deepEqual(await read(reference), { kind: 'closed' });
  assert.equal((await pay(reference)).status, 409);
});

test('refunds add up to what was captured and no further, and repeat without another effect', async () => {
  const { reference } = await open(1_000n);
  await pay(reference);
  const refund = (refundId: bigint, minorUnits: bigint) =>
    simulator.provider.refund({ refundId, reference, amount: usd(minorUnits) }, soon());
  const order = { refundId: 11n, reference, amount: usd(600n) };
  assert.equal(await simulator.provider.readRefund(order, soon()), undefined);
  const first = await refund(11n, 600n);
  assert.equal(first.kind, 'succeeded');
  assert.deepEqual(await refund(11n, 600n), first);
  assert.deepEqual(await simulator.provider.readRefund(order, soon()), first);
  assert.deepEqual(await refund(12n, 401n), {
    kind: 'failed',
    failure: 'only 400 minor units are left to refund',
  });
  assert.equal((await refund(13n, 400n)).kind, 'succeeded');
  assert.equal((await refund(14n, 1n)).kind, 'failed');
});

test('what was not paid, or paid in another currency, is not refunded', async () => {
  const { reference } = await open();
  const order = { refundId: 21n, reference, amount: usd(1n) };
  assert.equal((await simulator.provider.refund(order, soon())).kind, 'failed');
  await pay(reference);
  const euro = { ...order, amount: { currencyCode: 'EUR', minorUnits: 1n } };
  assert.equal((await simulator.provider.refund(euro, soon())).kind, 'failed');
});

test('another amount under the key of a refund is a contradiction, not a refund that failed', async () => {
  const { reference } = await open(1_000n);
  await pay(reference);
  const order = { refundId: 31n, reference, amount: usd(100n) };
  const made = await simulator.provider.refund(order, soon());
  const other = { ...order, amount: usd(200n) };
  await assert.rejects(simulator.provider.refund(other, soon()), { reason: 'INVALID_REQUEST' });
  assert.deepEqual(await simulator.provider.readRefund(order, soon()), made);
});

test('a session that ended a month ago is forgotten with its refunds, a younger one is not', async () => {
  const { reference } = await open();
  await pay(reference);
  const order = { refundId: 41n, reference, amount: usd(1n) };
  await simulator.provider.refund(order, soon());
  nowMs += 30 * 86_400_000;
  const younger = await open();
  assert.equal((await read(reference)).kind, 'paid');
  nowMs += 120_000;
  const isForgotten = () =>
    read(reference).then(
      () => false,
      () => true,
    );
  await eventually(isForgotten, 'it is forgotten');
  assert.equal(await simulator.provider.readRefund(order, soon()), undefined);
  assert.deepEqual(await read(younger.reference), { kind: 'closed' });
});

test('a session that does not exist is refused for good', async () => {
  await assert.rejects(read('ses_nothing'), { reason: 'INVALID_REQUEST' });
  await assert.rejects(read('../knobs'), { reason: 'INVALID_REQUEST' });
});

test('the API answers nobody without the key', async () => {
  const { reference } = await open();
  const calls: [string, string][] = [
    ['GET', `/v1/sessions/${reference}`],
    ['POST', `/v1/sessions/${reference}/pay`],
    ['POST', '/v1/refunds'],
    ['PUT', '/v1/knobs'],
  ];
  for (const [method, path] of calls) {
    for (const authorization of ['', `Bearer ${apiKey}x`, apiKey, 'Bearer ']) {
      const response = await fetch(`${simulator.url}${path}`, {
        method,
        headers: { authorization },
      });
      assert.equal(response.status, 401, `${method} ${path} with "${authorization}"`);
    }
  }
  assert.deepEqual(await read(reference), { kind: 'open' });
});

const good = {
  amount: { currencyCode: 'USD', minorUnits: '5' },
  metadata: { paymentId: '1', orderId: '2' },
  expireTime: '2027-02-03T04:05:06Z',
};
const bad: [string, unknown, string][] = [
  ['no body', undefined, 'metadata.paymentId'],
  ['a list', [], 'metadata.paymentId'],
  ['an amount of zero', { ...good, amount: { currencyCode: 'USD', minorUnits: '0' } }, 'amount'],
  ['a negative amount', { ...good, amount: { currencyCode: 'USD', minorUnits: '-5' } }, 'amount'],
  ['an amount as number', { ...good, amount: { currencyCode: 'USD', minorUnits: 5 } }, 'amount'],
  [
    'an amount beyond int64',
    { ...good, amount: { currencyCode: 'USD', minorUnits: '9223372036854775808' } },
    'amount',
  ],
  ['no currency', { ...good, amount: { minorUnits: '5' } }, 'amount.currencyCode'],
  ['a payment id of letters', { ...good, metadata: { paymentId: 'x', orderId: '2' } }, 'paymentId'],
  ['no order id', { ...good, metadata: { paymentId: '1' } }, 'metadata.orderId'],
  ['an end that is no time', { ...good, expireTime: 'soon' }, 'expireTime'],
];
for (const [name, body, field] of bad) {
  test(`a session with ${name} is refused by the name of the field`, async () => {
    const response = await fetch(`${simulator.url}/v1/sessions`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${apiKey}`,
        'idempotency-key': 'bad',
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    assert.equal(response.status, 400);
    const { error } = (await response.json()) as { error: { code: string; message: string } };
    assert.equal(error.code, 'invalid_request');
    assert(error.message.includes(field), error.message);
  });
}

test('a session without an idempotency key is refused', async () => {
  const { status, body } = await simulator.call('POST', '/v1/sessions', good);
  assert.equal(status, 400);
  assert.match(body.error.message, /Idempotency-Key/);
});
