import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createEventTopics } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { dropDatabases } from '../support/databases.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { type Filled, fill, filledShards } from './fill.ts';
import { sluice } from './run-sluice.ts';

// SLUICE_TEST_ORDERS=1000000 npm test -- test/operator/audit-of-many.test.ts tells how long a million orders take.
const orders = Number(process.env.SLUICE_TEST_ORDERS ?? 60_000);
const prefix = uniquePrefix('many');
/** All orders of the test would need several times this. */
const heapMiB = 96;
let filled: Filled;

before(
  async () => {
    await createEventTopics(kafkaBrokers.split(','), `${prefix}.`, createLog('test', 'silent'));
    filled = await fill({ prefix, orders, ageSeconds: 300 });
  },
  { timeout: 900_000 },
);

after(async () => {
  await filled?.close();
  await dropDatabases(prefix);
});

test('the audit of many orders looks at every one of them in bounded memory', {
  timeout: 900_000,
}, async (t) => {
  const { code, stdout, stderr } = await sluice(
    ['audit', '--json', '--promise', 'P1,P2,P3,P5,P6,P7'],
    {
      SLUICE_MYSQL_URLS: mysqlUrl,
      SLUICE_DATABASE_PREFIX: prefix,
      SLUICE_KAFKA_BROKERS: kafkaBrokers,
      SLUICE_KAFKA_TOPIC_PREFIX: `${prefix}.`,
      SLUICE_ORDER_SHARDS: `${filledShards.databases}x${filledShards.tables}`,
      NODE_OPTIONS: `--max-old-space-size=${heapMiB}`,
    },
  );
  assert.equal(code, 0, stderr + stdout);
  const { promises, seconds } = JSON.parse(stdout);
  assert.equal(promises[1].counted.orders, orders);
  t.diagnostic(`${orders} orders in ${seconds} s`);
});
