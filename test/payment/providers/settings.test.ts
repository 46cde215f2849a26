import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  createProvider,
  readProviderSettings,
} from '../../../services/payment/providers/create-provider.ts';
import { ConfigError, demoTokenSecret, readEnv } from '../../../services/runtime/env.ts';
import { createLog } from '../../../services/runtime/log.ts';

const secret = 'a secret of the tests of the settings';
const read = (variables: Readonly<Record<string, string>>) =>
  readEnv(variables, readProviderSettings);

function problemsOf(variables: Readonly<Record<string, string>>): readonly string[] {
  try {
    read(variables);
  } catch (error) {
    if (error instanceof ConfigError)
      return error.problems.map((text) => text.split(/[ =]/)[0] ?? '');
    throw error;
  }
  return [];
}

test('demo mode needs no setting, and takes the simulator on this machine', () => {
  const settings = read({ SLUICE_DEMO: '1' });
  assert.deepEqual(settings, {
    kind: 'simulator',
    url: 'http://127.0.0.1:8090',
    apiKey: demoTokenSecret,
    webhookKeys: [demoTokenSecret],
  });
  assert.equal(createProvider(settings, createLog('test', 'silent')).name, 'simulator');
});

test('outside demo mode every secret must be set, and none may be the public one', () => {
  const names = ['SLUICE_PAYMENT_WEBHOOK_KEYS', 'SLUICE_SIMULATOR_API_KEY'];
  assert.deepEqual(problemsOf({}), names);
  assert.deepEqual(
    problemsOf({
      SLUICE_PAYMENT_WEBHOOK_KEYS: `${secret},${demoTokenSecret}`,
      SLUICE_SIMULATOR_API_KEY: demoTokenSecret,
    }),
    names,
  );
});

test('two webhook keys may be live, not three, and each is long', () => {
  const keys = (list: string) => ({
    SLUICE_PAYMENT_WEBHOOK_KEYS: list,
    SLUICE_SIMULATOR_API_KEY: secret,
  });
  assert.deepEqual(read(keys(`${secret}, ${secret}2`)).webhookKeys, [secret, `${secret}2`]);
  for (const list of [`${secret},short`, `${secret},`, `${secret},${secret},${secret}`, 'short']) {
    assert.deepEqual(problemsOf(keys(list)), ['SLUICE_PAYMENT_WEBHOOK_KEYS'], list);
  }
});

test('Stripe needs its secrets in demo mode too, and nothing of the simulator', () => {
  const stripe = { SLUICE_PAYMENT_PROVIDER: 'stripe', SLUICE_PAYMENT_WEBHOOK_KEYS: secret };
  assert.deepEqual(problemsOf({ ...stripe, SLUICE_DEMO: '1' }), ['SLUICE_STRIPE_API_KEY']);
  for (const keys of ['', demoTokenSecret, `${secret},${demoTokenSecret}`]) {
    const variables = { ...stripe, SLUICE_DEMO: '1', SLUICE_STRIPE_API_KEY: secret };
    assert.deepEqual(problemsOf({ ...variables, SLUICE_PAYMENT_WEBHOOK_KEYS: keys }), [
      'SLUICE_PAYMENT_WEBHOOK_KEYS',
    ]);
  }
  const settings = read({ ...stripe, SLUICE_STRIPE_API_KEY: secret });
  assert(settings.kind === 'stripe');
  assert.equal(settings.apiUrl, 'https://api.stripe.com');
  assert.equal(createProvider(settings, createLog('test', 'silent')).name, 'stripe');
});

test('a provider or an address that does not exist is named', () => {
  assert.deepEqual(
    problemsOf({
      SLUICE_DEMO: '1',
      SLUICE_PAYMENT_PROVIDER: 'paypal',
      SLUICE_SIMULATOR_URL: 'localhost:8090',
    }),
    ['SLUICE_PAYMENT_PROVIDER', 'SLUICE_SIMULATOR_URL'],
  );
});
