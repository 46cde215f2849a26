import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { type System, startSystem } from '../support/system.ts';
import { EventReader, type StreamEvent } from './event-reader.ts';
import { patientFetch } from './patient-fetch.ts';
import type { ProblemBody } from './support.ts';

// Paying and watching on real processes: HTTP, edge, order, payment, the simulated provider, stock, MySQL.

let system: System;
let url: string;
let admin: Record<string, string>;
const skuId = '7201';

before(async () => {
  system = await startSystem({ name: 'edgemoney', payments: 1 });
  url = `http://127.0.0.1:${system.edge?.port}`;
  await system.createSku({ skuId: BigInt(skuId), supplied: 100n });
  admin = await token('1', 'admin');
});

after(() => system?.close());

function send(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: unknown,
): Promise<Response> {
  return patientFetch(`${url}${path}`, {
    method,
    headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

async function token(userId: string, role?: string): Promise<Record<string, string>> {
  const response = await send('POST', '/v1/demo/token', {}, role ? { userId, role } : { userId });
  const body = (await response.json()) as { token: string };
  return { authorization: `Bearer ${body.token}` };
}

async function buy(buyer: Record<string, string>): Promise<string> {
  const headers = { ...buyer, 'idempotency-key': 'buy' };
  const lines = [{ skuId, quantity: 1 }];
  const response = await send('POST', '/v1/orders', headers, { lines });
  assert.equal(response.status, 201, await response.clone().text());
  return ((await response.json()) as { orderId: string }).orderId;
}

interface PaymentBody {
  readonly paymentId: string;
  readonly status: string;
  readonly settlement: string;
  readonly paymentUrl: string;
  readonly amount: { readonly minorUnits: string };
  readonly captured: { readonly minorUnits: string } | null;
  readonly refunds: { readonly status: string; readonly amount: { minorUnits: string } }[];
}

async function beginPayment(
  buyer: Record<string, string>,
  orderId: string,
  key = 'pay',
): Promise<PaymentBody> {
  const headers = { ...buyer, 'idempotency-key': key };
  const response = await send('POST', `/v1/orders/${orderId}/payments`, headers);
  assert.equal(response.status, 201, await response.clone().text());
  const payment = (await response.json()) as PaymentBody;
  assert.equal(response.headers.get('location'), `/v1/payments/${payment.paymentId}`);
  return payment;
}

/** Presses the button of the payment page. */
async function pay({ paymentUrl }: PaymentBody): Promise<void> {
  const response = await fetch(`${paymentUrl}/pay`, { method: 'POST', redirect: 'manual' });
  assert.equal(response.status, 303, await response.text());
}

/** Order knows of a payment a moment before payment knows that order does. */
function untilRecorded(paymentId: string): Promise<void> {
  return eventually(async () => {
    const response = await send('GET', `/v1/admin/payments/${paymentId}`, admin);
    return ((await response.json()) as PaymentBody).settlement === 'PAYMENT_SETTLEMENT_RECORDED';
  }, `payment ${paymentId} is recorded`);
}

function refund(paymentId: string, key: string, body: unknown): Promise<Response> {
  const headers = { ...admin, 'idempotency-key': key };
  return send('POST', `/v1/admin/payments/${paymentId}/refunds`, headers, body);
}

/** Opens the stream of an order; one that is refused because its first state is late is asked for again. */
async function watch(buyer: Record<string, string>, orderId: string): Promise<EventReader> {
  let reader: EventReader | undefined;
  await eventually(async () => {
    reader = await EventReader.open(`${url}/v1/orders/${orderId}/events`, buyer);
    if (reader.response.status === 503) reader.leave();
    return reader.response.status !== 503;
  }, 'the stream is open');
  return reader as EventReader;
}

/** What an event tells of the order. */
function orderOf(event: StreamEvent | undefined): {
  status: string;
  version: number;
  paymentId: string;
  refunded: { minorUnits: string } | null;
} {
  assert.equal(event?.event, 'order');
  return JSON.parse(event.data);
}

async function assertProblem(
  response: Response,
  status: number,
  reason: string,
): Promise<ProblemBody> {
  const problem = (await response.json()) as ProblemBody;
  assert.equal(problem.reason, reason, problem.detail);
  assert.equal(response.status, status);
  return problem;
}

test('an order is paid and refunded in two parts, while its buyer watches every state', async () => {
  const buyer = await token('1001');
  const orderId = await buy(buyer);
  const watching = await watch(buyer, orderId);
  assert.equal(orderOf(await watching.next()).status, 'ORDER_STATUS_PENDING');

  const opened = await beginPayment(buyer, orderId);
  assert.equal(opened.status, 'PAYMENT_STATUS_PENDING');
  assert.equal(opened.amount.minorUnits, '1999');
  assert.match(opened.paymentUrl, /^http/);
  assert.deepEqual(await beginPayment(buyer, orderId), opened, 'the same key, the same payment');

  await pay(opened);
  const paid = orderOf(await watching.next());
  assert.equal(paid.status, 'ORDER_STATUS_PAID');
  assert.equal(paid.paymentId, opened.paymentId);
  assert.equal(paid.refunded, null);
  await untilRecorded(opened.paymentId);

  const part = { amount: { currencyCode: 'EUR', minorUnits: '500' }, reason: 'scratched' };
  assert.equal((await refund(opened.paymentId, 'part', part)).status, 201);
  const partly = orderOf(await watching.next());
  assert.equal(partly.status, 'ORDER_STATUS_PAID');
  assert.equal(partly.refunded?.minorUnits, '500');

  assert.equal((await refund(opened.paymentId, 'rest', { reason: 'broken' })).status, 201);
  assert.equal(orderOf(await watching.next()).status, 'ORDER_STATUS_REFUNDING');
  const refunded = orderOf(await watching.next());
  assert.equal(refunded.status, 'ORDER_STATUS_REFUNDED');
  assert.equal(refunded.refunded?.minorUnits, '1999');
  assert.equal((await watching.next())?.event, 'end');
  assert.equal(await watching.next(), undefined);

  const seen = (await (
    await send('GET', `/v1/payments/${opened.paymentId}`, buyer)
  ).json()) as PaymentBody;
  assert.equal(seen.settlement, 'PAYMENT_SETTLEMENT_RECORDED');
  assert.equal(seen.captured?.minorUnits, '1999');
  assert.deepEqual(
    seen.refunds.map(({ status, amount }) => [status, amount.minorUnits]),
    [
      ['REFUND_STATUS_SUCCEEDED', '500'],
      ['REFUND_STATUS_SUCCEEDED', '1499'],
    ],
  );
});

test('a refund too many, in another currency or under a used key is refused by its field', async () => {
  const buyer = await token('1002');
  const orderId = await buy(buyer);
  const payment = await beginPayment(buyer, orderId);
  const { paymentId } = payment;
  await assertProblem(
    await refund(paymentId, 'early', { reason: 'not paid yet' }),
    409,
    'ILLEGAL_TRANSITION',
  );
  await pay(payment);
  await untilRecorded(paymentId);
  const of = (currencyCode: string, minorUnits: string) => ({
    reason: 'r',
    amount: { currencyCode, minorUnits },
  });
  for (const [body, field] of [
    [of('EUR', '2000'), /^amount/],
    [of('USD', '5'), /^amount/],
    [of('euro', '5'), /^amount\.currencyCode$/],
    [{ ...of('EUR', '5'), restock: true }, /^restock$/],
    [{ reason: 'x'.repeat(201) }, /^reason$/],
  ] as const) {
    const response = await refund(paymentId, 'bad', body);
    const { violations } = await assertProblem(response, 400, 'INVALID_REQUEST');
    assert.match(violations?.[0]?.field ?? '', field);
  }
  assert.equal((await refund(paymentId, 'one', of('EUR', '5'))).status, 201);
  assert.equal((await refund(paymentId, 'one', of('EUR', '5'))).status, 201);
  await assertProblem(
    await refund(paymentId, 'one', of('EUR', '6')),
    422,
    'IDEMPOTENCY_KEY_REUSED',
  );
  const read = await send('GET', `/v1/admin/payments/${paymentId}`, admin);
  assert.equal(((await read.json()) as PaymentBody).refunds.length, 1);
});

test('payments of somebody else’s order are not found, and not shown', async () => {
  const buyer = await token('1003');
  const orderId = await buy(buyer);
  const { paymentId } = await beginPayment(buyer, orderId);
  const stranger = { ...(await token('1004')), 'idempotency-key': 'pay' };
  await assertProblem(
    await send('POST', `/v1/orders/${orderId}/payments`, stranger),
    404,
    'NOT_FOUND',
  );
  await assertProblem(await send('GET', `/v1/payments/${paymentId}`, stranger), 404, 'NOT_FOUND');
  await assertProblem(
    await send('GET', `/v1/orders/${orderId}/events`, stranger),
    404,
    'NOT_FOUND',
  );
  const list = await send('GET', `/v1/orders/${orderId}/payments`, stranger);
  assert.deepEqual(await list.json(), { payments: [] });
});

test('webhooks that are not the provider’s are refused and change nothing', async () => {
  const body = { id: 'forged', type: 'session.forged' };
  const signature = {
    'sluice-simulator-signature': `t=${Math.floor(Date.now() / 1_000)},v1=${'0'.repeat(64)}`,
  };
  for (const headers of [{}, signature]) {
    const response = await send('POST', '/v1/webhooks/simulator', headers, body);
    await assertProblem(response, 401, 'UNAUTHENTICATED');
  }
  await assertProblem(await send('POST', '/v1/webhooks/nobody', {}, body), 404, 'NOT_FOUND');
  const [rows] = await system.paymentPool.query(
    'SELECT COUNT(*) AS count FROM webhook_inbox WHERE event_type = ?',
    [body.type],
  );
  assert.equal(Number((rows as { count: number }[])[0]?.count), 0);
});

test('a paid order that its buyer cancels goes over REFUNDING to REFUNDED', async () => {
  const buyer = await token('1005');
  const orderId = await buy(buyer);
  const payment = await beginPayment(buyer, orderId);
  const watching = await watch(buyer, orderId);
  assert.equal(orderOf(await watching.next()).status, 'ORDER_STATUS_PENDING');
  await pay(payment);
  assert.equal(orderOf(await watching.next()).status, 'ORDER_STATUS_PAID');
  const cancelled = await send('POST', `/v1/orders/${orderId}/cancel`, buyer);
  assert.equal(cancelled.status, 200);
  const { status } = (await cancelled.json()) as { status: string };
  assert.match(status, /^ORDER_STATUS_REFUND(?:ING|ED)$/);
  const statuses: string[] = [];
  for (let event = await watching.next(); event?.event === 'order'; event = await watching.next()) {
    statuses.push(orderOf(event).status);
  }
  assert.equal(statuses.at(-1), 'ORDER_STATUS_REFUNDED');
});

test('a watcher outlives the order service that it watches through', async () => {
  const buyer = await token('1006');
  const orderId = await buy(buyer);
  const watching = await watch(buyer, orderId);
  assert.equal(orderOf(await watching.next()).version, 1);
  await system.orders[0]?.kill();
  await system.orders[0]?.restart();
  await eventually(async () => {
    const response = await send('POST', `/v1/orders/${orderId}/cancel`, buyer);
    return response.status === 200;
  }, 'the order is cancelled');
  assert.equal(orderOf(await watching.next()).status, 'ORDER_STATUS_CANCELLED');
  assert.equal((await watching.next())?.event, 'end');
});
