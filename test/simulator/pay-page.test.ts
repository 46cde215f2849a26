import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { type Browser, chromium, type Page } from 'playwright-core';
import { chromiumArgs, requireChromium } from '../../deploy/local/chromium.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { eventually } from '../support/eventually.ts';
import { type Receiver, type RunningSimulator, startReceiver, startSimulator } from './support.ts';

let browser: Browser;
let simulator: RunningSimulator;
let receiver: Receiver;
let aheadMs = 0;
let ids = 500n;
/** Its first start reads hundreds of megabytes from the disk. */
const launchMs = 120_000;

before(
  async () => {
    const executablePath = await requireChromium();
    browser = await chromium.launch({ executablePath, args: chromiumArgs, timeout: launchMs });
    receiver = await startReceiver();
    simulator = await startSimulator(
      { SLUICE_SIMULATOR_WEBHOOK_URL: receiver.url },
      { now: () => Date.now() + aheadMs },
    );
  },
  // Chromium may have to be installed.
  { timeout: 900_000 },
);
after(async () => {
  await browser?.close();
  await simulator?.stop();
  await receiver?.stop();
});
afterEach(() => simulator.knobs({}));

const soon = (): Deadline => Deadline.after(10_000);

async function open(lastsMs = 600_000, currencyCode = 'USD', minorUnits = 123_456n) {
  ids += 1n;
  return await simulator.provider.openSession(
    {
      paymentId: ids,
      orderId: 9_007_199_254_740_993n,
      amount: { currencyCode, minorUnits },
      expireTime: new Date(Date.now() + aheadMs + lastsMs),
    },
    soon(),
  );
}

/** A page that fails the test if anything of it is blocked, missing or broken. */
async function visit(url: string): Promise<{ page: Page; close(): Promise<void> }> {
  const context = await browser.newContext();
  const page = await context.newPage();
  const faults: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(message.text());
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  await page.goto(url);
  return {
    page,
    async close() {
      await context.close();
      assert.deepEqual(faults, []);
    },
  };
}

const stateOf = async (reference: string) =>
  (await simulator.provider.readSession(reference, soon())).kind;

test('a buyer sees what is paid, how much, and how long there is, and pays', async () => {
  const { reference, paymentUrl } = await open();
  const { page, close } = await visit(paymentUrl);
  const main = page.getByRole('main');
  assert.match((await main.textContent()) ?? '', /\$1,234\.56/);
  assert.match((await main.textContent()) ?? '', /Order 9007199254740993/);
  const timer = page.getByRole('timer');
  const before = await timer.textContent();
  assert.match(before ?? '', /^(9:\d\d|10:00)$/);
  await eventually(async () => (await timer.textContent()) !== before, 'the countdown moves');
  await page.getByRole('button', { name: 'Pay $1,234.56' }).click();
  await page.getByRole('heading', { name: 'Paid. Thank you!' }).waitFor();
  assert.equal(await page.getByRole('button').count(), 0);
  assert.equal(await page.getByRole('timer').count(), 0);
  assert.equal(await stateOf(reference), 'paid');
  await eventually(
    () => receiver.received.some(({ event }) => event.data.session.id === reference),
    'the shop is told',
  );
  await close();
});

test('an attempt that fails may be repeated', async () => {
  const { reference, paymentUrl } = await open();
  const { page, close } = await visit(paymentUrl);
  await page.getByRole('button', { name: 'Fail' }).click();
  await page.getByRole('heading', { name: 'That did not work' }).waitFor();
  assert.equal(await stateOf(reference), 'failed');
  await page.getByRole('button', { name: /^Pay/ }).click();
  await page.getByRole('heading', { name: 'Paid. Thank you!' }).waitFor();
  assert.equal(await stateOf(reference), 'paid');
  await close();
});

test('a buyer who walks away changes nothing and may come back', async () => {
  const { reference, paymentUrl } = await open();
  const { page, close } = await visit(paymentUrl);
  await page.getByRole('button', { name: 'Abandon' }).click();
  await page.getByRole('heading', { name: 'You left without paying' }).waitFor();
  assert.equal(await stateOf(reference), 'open');
  await page.getByRole('link', { name: 'Back to the payment' }).click();
  await page.getByRole('button', { name: /^Pay/ }).waitFor();
  await close();
});

test('when its time is over the page says so by itself, and offers nothing to press', async () => {
  const { paymentUrl } = await open(1_500);
  const { page, close } = await visit(paymentUrl);
  await page.getByRole('heading', { name: 'This payment is closed' }).waitFor();
  assert.equal(await page.getByRole('button').count(), 0);
  await close();
});

test('paying a session that was closed meanwhile is refused', async () => {
  const { reference, paymentUrl } = await open();
  const { page, close } = await visit(paymentUrl);
  await simulator.provider.closeSession(reference, soon());
  await page.getByRole('button', { name: /^Pay/ }).click();
  await page.getByRole('heading', { name: 'This payment is closed' }).waitFor();
  assert.equal(await stateOf(reference), 'closed');
  await close();
});

test('with payAfterClose the page lets a late payment through', async () => {
  const { reference, paymentUrl } = await open();
  aheadMs += 700_000;
  assert.equal(await stateOf(reference), 'closed');
  await simulator.knobs({ payAfterClose: true });
  const { page, close } = await visit(paymentUrl);
  assert.equal(await page.getByRole('button').count(), 1);
  await page.getByRole('button', { name: /^Pay/ }).click();
  await page.getByRole('heading', { name: 'Paid. Thank you!' }).waitFor();
  assert.equal(await stateOf(reference), 'paid');
  await close();
});

test('the page works without JavaScript', async () => {
  const { reference, paymentUrl } = await open();
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(paymentUrl);
  await page.getByRole('button', { name: /^Pay/ }).click();
  await page.getByRole('heading', { name: 'Paid. Thank you!' }).waitFor();
  assert.equal(await stateOf(reference), 'paid');
  await context.close();
});

test('on a phone nothing is cut off, however large the amount', async () => {
  const { paymentUrl } = await open(600_000, 'USD', 9_223_372_036_854_775_807n);
  const context = await browser.newContext({ viewport: { width: 320, height: 640 } });
  const page = await context.newPage();
  await page.goto(paymentUrl);
  const width = await page.evaluate('document.documentElement.scrollWidth');
  assert.equal(width, 320);
  assert.match((await page.textContent('main')) ?? '', /\$92,233,720,368,547,758\.07/);
  await context.close();
});

test('currencies without a smaller unit are shown whole', async () => {
  const { paymentUrl } = await open(600_000, 'JPY', 1_500n);
  const { page, close } = await visit(paymentUrl);
  await page.getByRole('button', { name: 'Pay ¥1,500' }).waitFor();
  await close();
});

test('the page tells nobody its address, loads nothing foreign, and is shown in no frame', async () => {
  const { paymentUrl } = await open();
  const { headers } = await fetch(paymentUrl);
  const policy = headers.get('content-security-policy') ?? '';
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /frame-ancestors 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  assert.equal(headers.get('referrer-policy'), 'no-referrer');
  assert.equal(headers.get('cache-control'), 'no-store');
  assert.equal(headers.get('x-content-type-options'), 'nosniff');
});

test("another site's form cannot press the buttons", async () => {
  const { reference, paymentUrl } = await open();
  const response = await fetch(`${paymentUrl}/pay`, {
    method: 'POST',
    redirect: 'manual',
    headers: { 'sec-fetch-site': 'cross-site' },
  });
  assert.equal(response.status, 403);
  assert.equal(await stateOf(reference), 'open');
});

test('an address that is no payment is a page that says so', async () => {
  for (const path of ['/pay/nothing', '/pay/%3Cscript%3E', '/pay/nothing/abandoned']) {
    const response = await fetch(`${simulator.url}${path}`);
    assert.equal(response.status, 404);
    assert.match(await response.text(), /There is no such payment/);
  }
});
