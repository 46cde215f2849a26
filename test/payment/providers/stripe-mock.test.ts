import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type StripeMock, startStripeMock } from '../../../deploy/local/stripe-mock.ts';
import type { PaymentProvider } from '../../../services/payment/provider.ts';
import { createStripeProvider } from '../../../services/payment/providers/stripe/stripe-provider.ts';
import { Deadline } from '../../../services/runtime/deadline.ts';
import { createLog } from '../../../services/runtime/log.ts';
import { Refusal } from '../../../services/runtime/refusals.ts';

// stripe-mock checks every call against Stripe's own description of its API and answers with fixtures; it keeps
// nothing. What our calls look like is tested here, what answers mean in stripe-answers.test.ts.

const dir = mkdtempSync(join(tmpdir(), 'sluice-stripe-mock-'));
const log = createLog('test', 'silent');
let mock: StripeMock;
let provider: PaymentProvider;

const settings = {
  apiKey: 'sk_test_1234567890123456789012345678',
  pageUrl: 'https://shop.example/pay',
  webhookKeys: ['whsec_the-first-key-of-the-tests-of-stripe'],
};

before(
  async () => {
    mock = await startStripeMock(dir);
    provider = createStripeProvider({ ...settings, apiUrl: mock.url }, log);
  },
  // Go may have to be installed, and the mock to be built.
  { timeout: 900_000 },
);

after(async () => {
  await mock?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const soon = (): Deadline => Deadline.after(10_000);
const usd = (minorUnits: bigint) => ({ currencyCode: 'USD', minorUnits });

test('a session is a PaymentIntent; its page gets the client secret in the fragment', async () => {
  const session = await provider.openSession(
    { paymentId: 71n, orderId: 72n, amount: usd(1_999n), expireTime: new Date() },
    soon(),
  );
  assert.match(session.reference, /^pi_/);
  assert.match(session.paymentUrl, /^https:\/\/shop\.example\/pay#pi_\w+_secret_\w+$/);
});

test('a session is read by its reference', async () => {
  const state = await provider.readSession('pi_123', soon());
  // Which of the two depends on the release's fixture; both can still be paid.
  assert(['open', 'failed'].includes(state.kind), state.kind);
});

test('a session that Stripe did not cancel is not called closed', async () => {
  // The mock answers the cancellation with an intent that is open still.
  await assert.rejects(provider.closeSession('pi_123', soon()), { reason: 'OUTCOME_UNKNOWN' });
});

test('a refund is asked for and told as Stripe answers it', async () => {
  const order = { refundId: 5n, reference: 'pi_123', amount: usd(500n) };
  const state = await provider.refund(order, soon());
  assert.equal(state.kind, 'succeeded');
  assert(state.kind === 'succeeded' && /^(re|pyr)_/.test(state.reference), JSON.stringify(state));
});

test('a refund that is not among those of the payment has never been heard of', async () => {
  const order = { refundId: 5n, reference: 'pi_123', amount: usd(500n) };
  assert.equal(await provider.readRefund(order, soon()), undefined);
});

test('an API key that Stripe refuses is our own fault: nothing was done, no payment fails', async () => {
  const wrong = createStripeProvider(
    { ...settings, apiUrl: mock.url, apiKey: 'not-a-key-of-stripe-at-all-but-long-enough' },
    log,
  );
  await assert.rejects(wrong.readSession('pi_123', soon()), { reason: 'DEPENDENCY_DOWN' });
});

test('amounts that Stripe cannot express are refused before anything is sent', async () => {
  const open = (amount: { currencyCode: string; minorUnits: bigint }) =>
    provider.openSession({ paymentId: 1n, orderId: 2n, amount, expireTime: new Date() }, soon());
  for (const amount of [
    usd(0n),
    usd(-5n),
    usd(2n ** 53n),
    { currencyCode: 'MGA', minorUnits: 500n },
  ]) {
    await assert.rejects(open(amount), (error) => {
      assert(error instanceof Refusal);
      assert.equal(error.reason, 'INVALID_REQUEST');
      assert.equal(error.violations[0]?.field, 'amount');
      return true;
    });
  }
});
