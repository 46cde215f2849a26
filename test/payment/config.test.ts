import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConfig } from '../../services/payment/config.ts';

const wrong: [string, string][] = [
  ['SLUICE_PAYMENT_PORT', '70000'],
  ['SLUICE_PAYMENT_PROVIDER', 'bank'],
  ['SLUICE_PAYMENT_POLL_MS', '5'],
  ['SLUICE_PAYMENT_CALLS_PER_SECOND', '9'],
  ['SLUICE_PAYMENT_WEBHOOK_KEYS', 'short'],
  ['SLUICE_TOKEN_SECRET', 'short'],
  ['SLUICE_ORDER_ADDRESS', 'here'],
];

test('every bad setting of payment is reported at once, by name', () => {
  assert.throws(
    () => readConfig({ SLUICE_DEMO: '1', ...Object.fromEntries(wrong) }),
    (error: Error) => {
      for (const [name] of wrong) assert.match(error.message, new RegExp(`^${name}`, 'm'));
      return true;
    },
  );
});

test('outside demo mode no secret has a default', () => {
  assert.throws(
    () => readConfig({}),
    /SLUICE_PAYMENT_WEBHOOK_KEYS[\s\S]*SLUICE_TOKEN_SECRET|SLUICE_TOKEN_SECRET[\s\S]*SLUICE_PAYMENT_WEBHOOK_KEYS/,
  );
});
