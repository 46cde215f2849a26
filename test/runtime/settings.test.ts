import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  ConfigError,
  demoTokenSecret,
  type EnvReader,
  readEnv,
} from '../../services/runtime/env.ts';

const read = (env: EnvReader) => ({
  port: env.port('SLUICE_ORDER_PORT', 50051),
  expirySeconds: env.integer('SLUICE_ORDER_EXPIRY_SECONDS', 900, { min: 1 }),
  demo: env.boolean('SLUICE_DEMO', false),
  level: env.choice('SLUICE_LOG_LEVEL', ['info', 'warn'], 'info'),
  mysqlUrls: env.urls('SLUICE_MYSQL_URLS', 'mysql', ['mysql://root@127.0.0.1:13306']),
  stock: env.addresses('SLUICE_STOCK_ADDRESS', ['127.0.0.1:50052']),
  shards: env.shards('SLUICE_ORDER_SHARDS', '2x8'),
  secret: env.secret('SLUICE_TOKEN_SECRET', env.boolean('SLUICE_DEMO', false)),
});

const secret = 'x'.repeat(32);

test('a password goes into no message, whatever is in it', () => {
  for (const password of ['hun@ter2', 'hun/ter2', '@hunter2@']) {
    const url = `http://root:${password}@h:1`;
    const variables = { SLUICE_TOKEN_SECRET: secret, SLUICE_MYSQL_URLS: url };
    assert.throws(
      () => readEnv(variables, read),
      ({ message }: Error) => message.includes('//…@h:1') && !message.includes('ter2'),
    );
  }
});

test('unset and empty variables take the defaults, and the settings are frozen', () => {
  const config = readEnv({ SLUICE_DEMO: '1', SLUICE_ORDER_PORT: '' }, read);
  assert.equal(config.port, 50051);
  assert.deepEqual(config.shards, { databases: 2, tables: 8 });
  assert.equal(config.secret, demoTokenSecret);
  assert(Object.isFrozen(config));
});
const wrong: [string, string, RegExp][] = [
  ['SLUICE_ORDER_PORT', '70000', /SLUICE_ORDER_PORT=70000 must be a whole number from 0 to 65535/],
  ['SLUICE_ORDER_PORT', '12a', /SLUICE_ORDER_PORT/],
  ['SLUICE_ORDER_EXPIRY_SECONDS', '0', /SLUICE_ORDER_EXPIRY_SECONDS=0 must be/],
  ['SLUICE_DEMO', 'yes', /SLUICE_DEMO=yes must be 1, true, 0 or false/],
  ['SLUICE_LOG_LEVEL', 'loud', /SLUICE_LOG_LEVEL=loud must be one of info, warn/],
  ['SLUICE_MYSQL_URLS', 'redis://h:1', /SLUICE_MYSQL_URLS=redis:\/\/h:1 must be mysql:/],
  ['SLUICE_STOCK_ADDRESS', 'here', /SLUICE_STOCK_ADDRESS=here must be host:port/],
  ['SLUICE_ORDER_SHARDS', '64x64', /SLUICE_ORDER_SHARDS=64x64 must be databases x tables/],
  ['SLUICE_TOKEN_SECRET', 'short', /SLUICE_TOKEN_SECRET=… must have 32 characters/],
  ['SLUICE_TOKEN_SECRET', demoTokenSecret, /SLUICE_TOKEN_SECRET=… is the public demo secret/],
  ['SLUICE_TOKEN_SECRET', '', /SLUICE_TOKEN_SECRET must be set/],
];

for (const [name, value, message] of wrong) {
  test(`${name}=${value.slice(0, 12)} is refused by name`, () => {
    assert.throws(() => readEnv({ SLUICE_TOKEN_SECRET: secret, [name]: value }, read), message);
  });
}

test('every bad value is reported at once, without passwords', () => {
  const variables = {
    SLUICE_ORDER_PORT: 'x',
    SLUICE_DEMO: 'maybe',
    SLUICE_MYSQL_URLS: 'http://root:hunter2@h:1',
  };
  assert.throws(
    () => readEnv(variables, read),
    (error) => {
      assert(error instanceof ConfigError);
      const names = error.problems.map((problem) => problem.split(/[= ]/)[0]);
      for (const name of [...Object.keys(variables), 'SLUICE_TOKEN_SECRET']) {
        assert(names.includes(name), name);
      }
      assert(!error.message.includes('hunter2'));
      return true;
    },
  );
});
