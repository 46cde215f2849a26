import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Browser, chromium, type Page } from 'playwright-core';
import { requireChromium } from '../../deploy/local/chromium.ts';
import { eventually } from '../support/eventually.ts';
import { expectAllAtRest } from '../support/expect-at-rest.ts';
import { setKnobs } from '../support/life-workload.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';

// What a buyer sees and does, through the doors that buyers use: HTTP, and the provider's page in a browser.

const skuId = 1n;
const userId = '4711';
/** Orders that are to be paid have all the time that a browser may need; for the others there is enough to begin a payment. */
const usualSeconds = 900;
const shortSeconds = 10;
/** What normally takes seconds, the expiry among it. */
const bounds = { withinMs: 90_000 };
let system: System;
let browser: Browser;
let token: string;

before(async () => {
  system = await startSystem({
    name: 'life',
    payments: 1,
    events: true,
    env: {
      SLUICE_SETTLE_AGE_MS: '2000',
      SLUICE_PAYMENT_POLL_MS: '1000',
    },
  });
  await system.createSku({ skuId, supplied: 100n });
  browser = await chromium.launch({
    executablePath: await requireChromium(),
    args: ['--no-sandbox', '--disable-background-networking', '--disable-component-update'],
  });
  const answer = await edge('/v1/demo/token', { body: { userId } });
  token = answer.body.token as string;
});
after(async () => {
  await browser?.close();
  await system?.close();
});

let livesForSeconds = usualSeconds;

/** How long orders that are made from now on may stay unpaid. */
async function ordersLiveFor(seconds: number): Promise<void> {
  if (seconds === livesForSeconds) return;
  const [order] = system.orders as [ServiceProcess];
  await order.restart({ SLUICE_ORDER_EXPIRY_SECONDS: String(seconds) });
  livesForSeconds = seconds;
}

/** The webhooks of one provider that behaves and of one that repeats and shuffles. */
const deliveries: readonly [name: string, knobs: Readonly<Record<string, unknown>>][] = [
  ['webhooks that come once', {}],
  ['webhooks that come 100 times and out of order', { duplicates: 100, reorderMs: 1_000 }],
];

for (const [index, [name, knobs]] of deliveries.entries()) {
  test(`bought and paid in the browser, with ${name}: PAID, sold, mailed, counted`, async () => {
    await setKnobs(system, knobs);
    const orderId = await buy(`paid-${index}`);
    const url = await beginPayment(orderId, `pay-${index}`);
    await payOnPage(url);
    await untilStatus(orderId, 'ORDER_STATUS_PAID');
    await eventually(async () => (await holdState(orderId)) === 2, 'the ledger says SOLD', bounds);
    await eventually(() => mailsOf(orderId).length === 1, 'the confirmation arrives', bounds);
    assert.match(mailsOf(orderId)[0] as string, /19[.,]99/);
    const isFact = async () => (await factOf(orderId)) === 'PAID';
    await eventually(isFact, 'the warehouse knows it', bounds);
    const isCounted = async () => (await statistic('paid')) === BigInt(index + 1);
    await eventually(isCounted, 'it is counted', bounds);
  });
}

for (const [index, [name, knobs]] of deliveries.entries()) {
  test(`bought and left alone, with ${name}: CANCELLED for its time, and the stock is back`, async () => {
    await ordersLiveFor(shortSeconds);
    await setKnobs(system, knobs);
    const before = await displayedAtRest();
    const plain = await buy(`left-${index}`);
    const begun = await buy(`begun-${index}`);
    await beginPayment(begun, `begun-${index}`);
    await eventually(async () => (await displayed()) === before - 2, 'both are held');
    for (const orderId of [plain, begun]) {
      const order = await untilStatus(orderId, 'ORDER_STATUS_CANCELLED');
      assert.equal(order.closeReason, 'CLOSE_REASON_EXPIRED');
    }
    await eventually(async () => (await displayed()) === before, 'the stock is back', bounds);
  });

  test(`paid after it expired, with ${name}: the money goes back, once`, async () => {
    await ordersLiveFor(shortSeconds);
    await setKnobs(system, { ...knobs, payAfterClose: true });
    const orderId = await buy(`late-${index}`);
    const url = await beginPayment(orderId, `late-${index}`);
    await untilStatus(orderId, 'ORDER_STATUS_CANCELLED');
    await payOnPage(url);
    const isRefunded = async (): Promise<boolean> => {
      const { body } = await edge(`/v1/orders/${orderId}/payments`);
      const [payment] = body.payments as { settlement: string; refunds: { status: string }[] }[];
      return (
        payment?.settlement === 'PAYMENT_SETTLEMENT_SURPLUS' &&
        payment.refunds.length === 1 &&
        payment.refunds[0]?.status === 'REFUND_STATUS_SUCCEEDED'
      );
    };
    await eventually(isRefunded, 'the payment is refunded', bounds);
    assert.equal((await order(orderId)).status, 'ORDER_STATUS_CANCELLED');
    assert.equal(mailsOf(orderId).length, 0);
    await eventually(async () => (await holdState(orderId)) === 3, 'its stock is back', bounds);
  });
}

test('failed in the browser and paid in a second session: PAID once', async () => {
  await ordersLiveFor(usualSeconds);
  await setKnobs(system, {});
  const orderId = await buy('again');
  await onPage(await beginPayment(orderId, 'again-1'), async (page) => {
    await page.getByRole('button', { name: /fail/i }).click();
    await page
      .getByText(/failed|declined|refused/i)
      .first()
      .waitFor();
  });
  await payOnPage(await beginPayment(orderId, 'again-2'));
  const paid = await untilStatus(orderId, 'ORDER_STATUS_PAID');
  assert.notEqual(paid.paymentId, '0');
});

test('a paid order that its buyer cancels is refunded whole, and its stock stays sold', async () => {
  await ordersLiveFor(usualSeconds);
  const orderId = await buy('regret');
  await payOnPage(await beginPayment(orderId, 'regret'));
  await untilStatus(orderId, 'ORDER_STATUS_PAID');
  const cancelled = await edge(`/v1/orders/${orderId}/cancel`, { body: {} });
  assert.equal(cancelled.status, 200);
  const refunded = await untilStatus(orderId, 'ORDER_STATUS_REFUNDED');
  assert.equal((refunded.refunded as { minorUnits: string }).minorUnits, '1999');
  await eventually(async () => (await holdState(orderId)) === 2, 'the ledger says SOLD', bounds);
});

test('nothing of all this broke a promise', { timeout: 300_000 }, async () => {
  await setKnobs(system, {});
  await expectAllAtRest(system);
});

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

interface Asked {
  readonly body?: unknown;
  readonly key?: string;
}

/** POST with a body, GET without; asked again, as buyers do, while nobody knows the answer. */
async function edge(path: string, asked: Asked = {}): Promise<Answer> {
  let answer = await edgeOnce(path, asked);
  const isUnknown = async (): Promise<boolean> => {
    if (answer.status >= 500) answer = await edgeOnce(path, asked);
    return answer.status >= 500;
  };
  await eventually(async () => !(await isUnknown()), `${path} is answered`, { everyMs: 200 });
  return answer;
}

async function edgeOnce(path: string, { body, key }: Asked): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${system.edge?.port}${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(key === undefined ? {} : { 'idempotency-key': key }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

async function buy(key: string): Promise<string> {
  const lines = [{ skuId: String(skuId), quantity: 1 }];
  const { status, body } = await edge('/v1/orders', { body: { lines }, key });
  assert.equal(status, 201, JSON.stringify(body));
  return body.orderId as string;
}

/** @returns the address of the page where the buyer pays */
async function beginPayment(orderId: string, key: string): Promise<string> {
  const { status, body } = await edge(`/v1/orders/${orderId}/payments`, { body: {}, key });
  assert.equal(status, 201, JSON.stringify(body));
  return body.paymentUrl as string;
}

async function onPage(url: string, work: (page: Page) => Promise<unknown>): Promise<void> {
  const page = await browser.newPage();
  try {
    await page.goto(url);
    await work(page);
  } finally {
    await page.close();
  }
}

/** Presses the button, and leaves when the page says that it was paid. */
async function payOnPage(url: string): Promise<void> {
  await onPage(url, async (page) => {
    await page.getByRole('button', { name: /^pay/i }).click();
    await page.getByText(/paid/i).first().waitFor();
  });
}

async function order(orderId: string): Promise<Record<string, unknown>> {
  return (await edge(`/v1/orders/${orderId}`)).body;
}

async function untilStatus(orderId: string, status: string): Promise<Record<string, unknown>> {
  const isReached = async () => (await order(orderId)).status === status;
  await eventually(isReached, `${orderId} is ${status}`, bounds);
  return await order(orderId);
}

async function displayed(): Promise<number> {
  const { body } = await edge(`/v1/stock?skuId=${skuId}`);
  return Number((body.stocks as { available: string }[])[0]?.available);
}

/** What is on display once it agrees with the ledger: what came back before is counted by then. */
async function displayedAtRest(): Promise<number> {
  let shown = Number.NaN;
  await eventually(
    async () => {
      const sql = 'SELECT available FROM skus WHERE sku_id = ?';
      const [rows] = await system.stockPool.query(sql, [skuId]);
      shown = await displayed();
      return shown === Number((rows as { available: string }[])[0]?.available);
    },
    'what is on display is what the ledger has',
    bounds,
  );
  return shown;
}

async function holdState(orderId: string): Promise<number | undefined> {
  const [rows] = await system.stockPool.query('SELECT state FROM stock_holds WHERE order_id = ?', [
    orderId,
  ]);
  return (rows as { state: number }[])[0]?.state;
}

/** The mails about an order that arrived at the mail server. */
function mailsOf(orderId: string): string[] {
  return readdirSync(system.mailDir)
    .filter((file) => file.endsWith('.eml'))
    .map((file) => readFileSync(join(system.mailDir, file), 'utf8'))
    .filter((mail) => mail.includes(orderId));
}

async function factOf(orderId: string): Promise<string | undefined> {
  const [rows] = await system.warehousePool.query(
    'SELECT status FROM order_line_facts WHERE order_id = ?',
    [orderId],
  );
  return (rows as { status: string }[])[0]?.status;
}

async function statistic(column: 'paid'): Promise<bigint> {
  const [rows] = await system.eventsPool.query(
    `SELECT ${column} AS figure FROM user_statistics WHERE user_id = ?`,
    [userId],
  );
  return BigInt((rows as { figure: string }[])[0]?.figure ?? 0);
}
