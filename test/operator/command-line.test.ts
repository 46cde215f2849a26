import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createEventTopics } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { dropDatabases } from '../support/databases.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { type Filled, fill, filledShards } from './fill.ts';
import { sluice, sluiceInto } from './run-sluice.ts';

const prefix = uniquePrefix('cli');
/** Nothing listens there. */
const nowhere = '127.0.0.1:1';
const env = {
  SLUICE_MYSQL_URLS: mysqlUrl,
  SLUICE_KAFKA_BROKERS: kafkaBrokers,
  SLUICE_DATABASE_PREFIX: prefix,
  SLUICE_KAFKA_TOPIC_PREFIX: `${prefix}.`,
  SLUICE_ORDER_SHARDS: `${filledShards.databases}x${filledShards.tables}`,
  SLUICE_ORDER_ADDRESS: nowhere,
  SLUICE_STOCK_ADDRESS: nowhere,
  SLUICE_PAYMENT_ADDRESS: nowhere,
};
const ofMysql = ['--promise', 'P1,P2,P3', '--promise', 'P5', 'P6', 'P7'];
let filled: Filled;

before(async () => {
  await createEventTopics(kafkaBrokers.split(','), `${prefix}.`, createLog('test', 'silent'));
  filled = await fill({ prefix, orders: 100, ageSeconds: 300 });
});

after(async () => {
  await filled?.close();
  await dropDatabases(prefix);
});

test('every command explains itself, with its options and what it exits with', async () => {
  const commands = [
    [],
    ['audit'],
    ['explain'],
    ['prune'],
    ['dlq'],
    ['dlq', 'list'],
    ['dlq', 'replay'],
  ];
  for (const command of commands) {
    const { code, stdout, stderr } = await sluice([...command, '--help'], {}, '/');
    assert.equal(code, 0);
    assert.match(stdout, /^Usage: \.\/sluice/);
    assert.equal(stderr, '');
  }
  const { stdout } = await sluice(['--help'], {});
  for (const word of ['audit', 'explain', 'prune', 'dlq', 'Exit codes', 'SLUICE_TOKEN']) {
    assert(stdout.includes(word), word);
  }
});

test('a clean audit exits with 0 and prints a table', async () => {
  const { code, stdout } = await sluice(['audit', ...ofMysql], env, '/tmp');
  assert.equal(code, 0, stdout);
  assert.match(stdout, /^P1 {2}Never oversell +127 order lines.*6 SKUs/m);
  assert.match(stdout, /Clean: no promise is broken\./);
});

test('--json prints JSON and nothing else, also where promises are broken, which exits with 1', async () => {
  const id = await filled.orderId(1);
  const set = (by: string): Promise<unknown> =>
    filled.pool.query(
      `UPDATE ${prefix}_stock.stock_holds SET units = units ${by} WHERE order_id = ${id}`,
    );
  await set('+ 1');
  try {
    const { code, stdout, stderr } = await sluice(['audit', '--json', ...ofMysql], env);
    const result = JSON.parse(stdout);
    assert.equal(code, 1);
    assert.equal(stderr, '');
    assert.equal(result.breaches, 2);
    const [never] = result.promises;
    assert.equal(never.promise, 'P1');
    assert.equal(never.kinds[0].kind, 'units-differ');
    assert.equal(never.kinds[0].examples[0].orderId, id);
    const text = await sluice(['audit', ...ofMysql], env);
    assert.match(text.stdout, new RegExp(`P1 units-differ: 1\n {2}order ${id} has 2 of SKU 2`));
    const other = await sluice(['audit', '--sku', '4', '--json', ...ofMysql], env);
    assert.equal(other.code, 0, 'the other SKUs are not concerned');
  } finally {
    await set('- 1');
  }
});

test('an audit that cannot see the gates says so and exits with 2', async () => {
  const { code, stdout } = await sluice(['audit', '--grace', '1'], env);
  assert.equal(code, 2);
  assert.match(stdout, /I5 could not look: The stock service at 127\.0\.0\.1:1 does not answer/);
  assert.match(stdout, /it could not look at all of P4, I5/);
});

test('an audit that cannot ask Kafka how far the consumers are says so and exits with 2', async () => {
  const away = { ...env, SLUICE_KAFKA_BROKERS: nowhere };
  const { code, stdout } = await sluice(['audit', ...ofMysql], away);
  assert.equal(code, 2);
  assert.match(stdout, /P7 could not look: Kafka at 127\.0\.0\.1:1 could not be asked/);
  assert.match(stdout, /it could not look at all of P7\./);
  const other = { ...env, SLUICE_KAFKA_TOPIC_PREFIX: 'nothing.' };
  assert.match((await sluice(['audit', ...ofMysql], other)).stdout, /has no topic nothing\./);
  const without = await sluice(['audit', '--promise', 'P1,P6'], away);
  assert.equal(without.code, 0, 'only P7 asks Kafka');
});

test('without a token for operators it says what to set', async () => {
  const off = await sluice(['audit', '--promise', 'I5'], { ...env, SLUICE_DEMO: '0' });
  assert.equal(off.code, 2);
  assert.match(off.stdout, /SLUICE_DEMO=0: set SLUICE_TOKEN to a token with the role admin/);
  const far = { ...env, SLUICE_STOCK_ADDRESS: 'stock.example:50052' };
  const away = await sluice(['audit', '--promise', 'I5'], far);
  assert.equal(away.code, 2);
  assert.match(away.stdout, /is not this machine/);
});

const failures: readonly [string, string[], Record<string, string>, RegExp][] = [
  [
    'MySQL is away',
    ['audit'],
    { SLUICE_MYSQL_URLS: 'mysql://root@127.0.0.1:1' },
    /MySQL at 127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)/,
  ],
  [
    'the warehouse is away',
    ['explain', '1'],
    { SLUICE_WAREHOUSE_URL: 'mysql://root@127.0.0.1:1' },
    /MySQL at 127\.0\.0\.1:1 does not answer .*SLUICE_WAREHOUSE_URL right/,
  ],
  [
    'there is no such installation',
    ['prune'],
    { SLUICE_DATABASE_PREFIX: 'nothing' },
    /has no database nothing_order_0/,
  ],
  [
    'the layout is another one',
    ['explain', '1'],
    { SLUICE_ORDER_SHARDS: '2x8' },
    /laid out as 2x2: set SLUICE_ORDER_SHARDS/,
  ],
  [
    'a setting is bad',
    ['audit'],
    { SLUICE_ORDER_SHARDS: 'many' },
    /SLUICE_ORDER_SHARDS=many must be databases x tables/,
  ],
  [
    'Kafka is away',
    ['dlq', 'list'],
    { SLUICE_KAFKA_BROKERS: nowhere },
    /Kafka at 127\.0\.0\.1:1 could not be read/,
  ],
  ['the command is unknown', ['repair'], {}, /unknown command 'repair'/],
  ['an option is unknown', ['audit', '--fix'], {}, /unknown option '--fix'/],
  ['the order id is none', ['explain', '12x'], {}, /An order id is a positive whole number/],
  ['a SKU is none', ['audit', '--sku', '-1'], {}, /"-1" is not a positive whole number/],
  ['there is no such SKU', ['audit', '--sku', '2,999'], {}, /^The ledger has no SKU 999\.$/m],
  ['a promise is none', ['audit', '--promise', 'P9'], {}, /"P9" is not one of P1/],
  ['the grace is none', ['audit', '--grace', '1.5'], {}, /whole number from 0 to 86400/],
  ['the age is too young', ['prune', '--older-than', '1d'], {}, /It must be 7 days or more/],
  ['the age is none', ['prune', '--older-than', 'old'], {}, /It must be like 30d/],
];
for (const [what, args, more, sentence] of failures) {
  test(`it exits with 2 and one sentence when ${what}`, async () => {
    const { code, stdout, stderr } = await sluice(args, { ...env, ...more });
    assert.equal(code, 2);
    assert.equal(stdout, '');
    assert.match(stderr, sentence);
    assert(!stderr.includes('    at '), stderr);
  });
}

test('whoever reads the output may stop reading', async () => {
  const { stderr, code } = await sluiceInto('true', ['explain', '1', '--no-kafka', '--json'], env);
  assert.deepEqual([stderr, code], ['', 0]);
});

test('prune tells what would go, as a table and as JSON', async () => {
  const text = await sluice(['prune', '--dry-run'], env);
  assert.equal(text.code, 0, text.stderr);
  assert.match(text.stdout, /^Would go: what is older than/);
  const json = await sluice(['prune', '--dry-run', '--json', '--older-than', '8d'], env);
  assert.equal(JSON.parse(json.stdout).dryRun, true);
});
