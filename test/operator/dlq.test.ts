import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { RowDataPacket } from 'mysql2';
import { migrateAll } from '../../db/migrate.ts';
import { OutboxBatch } from '../../gen/sluice/event/v1/outbox.ts';
import { buryMessages } from '../../services/runtime/bury-messages.ts';
import {
  createEventPublisher,
  type EventPublisher,
} from '../../services/runtime/event-publisher.ts';
import { createEventTopics, orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { dropDatabases } from '../support/databases.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { sluice } from './run-sluice.ts';

// What was set aside, in Kafka and in MySQL, through the command line. No service runs.

const prefix = uniquePrefix('dlq');
const groupId = `${prefix}.warehouse`;
const topic = orderEventsTopic(`${prefix}.`);
const brokers = kafkaBrokers.split(',');
const log = createLog('test', 'silent');
const env = {
  SLUICE_MYSQL_URLS: mysqlUrl,
  SLUICE_KAFKA_BROKERS: kafkaBrokers,
  SLUICE_DATABASE_PREFIX: prefix,
  SLUICE_KAFKA_TOPIC_PREFIX: `${prefix}.`,
  SLUICE_ORDER_SHARDS: '2x1',
};
let publisher: EventPublisher;
let pools: Pool[];

before(async () => {
  const orderShards = { databases: 2, tables: 1 };
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  await createEventTopics(brokers, `${prefix}.`, log);
  publisher = createEventPublisher({ clientId: 'test', brokers, log });
  pools = [0, 1].map((index) =>
    createPool(mysqlUrl, { database: `${prefix}_order_${index}`, connectionsMax: 2 }),
  );
  const message = {
    key: Buffer.from('41'),
    value: Buffer.from('an event'),
    timestamp: String(Date.now() - 60_000),
    attributes: 0,
    offset: '7',
    headers: {},
  };
  const place = { topic, groupId, publisher, log };
  await buryMessages(place, [{ message, partition: 3, error: new TypeError('cannot be handled') }]);
  const orders = [11n, 12n, 13n, 14n, 15n, 16n];
  await setAside(0, batchOf(orders), 'refused by Kafka', { waits: false });
  await setAside(1, Buffer.from('no batch'), 'the row cannot be read', { waits: false });
  await setAside(1, batchOf([21n]), 'its partition takes nothing', { waits: true });
});
after(async () => {
  await publisher?.close();
  await Promise.all((pools ?? []).map((pool) => pool.end()));
  await dropDatabases(prefix);
});

function batchOf(keys: readonly bigint[]): Buffer {
  const messages = keys.map((key) => ({ key, value: Buffer.from('v') }));
  return Buffer.from(OutboxBatch.encode({ messages }).finish());
}

async function setAside(
  database: number,
  payload: Buffer,
  reason: string,
  { waits }: { readonly waits: boolean },
): Promise<void> {
  await (pools[database] as Pool).query(
    `INSERT INTO outbox_set_aside
       (outbox_id, payload, create_time, reason, attempts, next_time, set_aside_time)
     VALUES (1, ?, NOW(3), ?, 4, ${waits ? 'NOW(3) + INTERVAL 1 HOUR' : 'NULL'}, NOW(3))`,
    [payload, reason],
  );
}

/** Rows that are not tried again by themselves, by database. */
async function operatorsRows(): Promise<number[]> {
  const counts = pools.map(async (pool) => {
    const [[row]] = await pool.query<RowDataPacket[]>(
      'SELECT COUNT(*) AS rows_left FROM outbox_set_aside WHERE next_time IS NULL',
    );
    return Number(row?.rows_left);
  });
  return await Promise.all(counts);
}

async function json(...args: string[]) {
  const { code, stdout, stderr } = await sluice(['dlq', ...args, '--json'], env);
  assert.deepEqual([code, stderr], [0, '']);
  return JSON.parse(stdout) as Record<string, unknown>[];
}

test('a list shows events and outbox rows with their reasons, in the order of their time', async () => {
  const { code, stdout, stderr } = await sluice(['dlq', 'list'], env);
  assert.equal(code, 0, stderr);
  const lines = stdout.trim().split('\n');
  const shown = lines.filter((line) => /^\d{4}-/.test(line));
  assert.deepEqual([...shown].sort(), shown);
  assert.match(stdout, /warehouse {2}order 41 .*\/3@7\n {2}TypeError: cannot be handled\n/);
  assert.match(
    stdout,
    /outbox of \w+_order_0 {2}row 1 {2}orders 11, 12, 13, 14, 15, …\n {2}refused by Kafka\n/,
  );
  assert.match(stdout, /outbox of \w+_order_1 {2}row 1\n {2}the row cannot be read\n/);
  assert.match(stdout, /row 2 {2}orders 21 \(is tried again\)\n {2}its partition takes nothing\n/);
  assert.equal(lines.at(-1), '1 dead letters and 3 outbox rows.');
});

test('as JSON each has its kind and what belongs to it', async () => {
  const found = await json('list');
  assert.deepEqual(
    found.map(({ kind }) => kind),
    ['event', 'outbox', 'outbox', 'outbox'],
  );
  const [letter, row] = found;
  assert.equal(letter?.value, Buffer.from('an event').toString('base64'));
  assert.equal(letter?.group, groupId);
  assert.deepEqual(
    [row?.database, row?.id, row?.reason, row?.waits, row?.orderIds],
    [`${prefix}_order_0`, '1', 'refused by Kafka', false, ['11', '12', '13', '14', '15', '16']],
  );
});

test('a kind, a group and a limit are kept', async () => {
  const kinds = async (...args: string[]) => (await json('list', ...args)).map(({ kind }) => kind);
  assert.deepEqual(await kinds('--kind', 'event'), ['event']);
  assert.deepEqual(await kinds('--kind', 'outbox'), ['outbox', 'outbox', 'outbox']);
  assert.deepEqual(await kinds('--group', groupId), ['event']);
  assert.deepEqual(await kinds('--group', 'nobody'), []);
  const newest = await json('list', '--limit', '2');
  assert.deepEqual(
    newest.map(({ kind, reason }) => [kind, reason]),
    [
      ['outbox', 'the row cannot be read'],
      ['outbox', 'its partition takes nothing'],
    ],
  );
});

test('what is in MySQL is shown while Kafka is away', async () => {
  const away = { ...env, SLUICE_KAFKA_BROKERS: '127.0.0.1:1' };
  const all = await sluice(['dlq', 'list'], away);
  assert.deepEqual([all.code, all.stdout], [2, '']);
  assert.match(all.stderr, /could not be read .* shown with --kind outbox/);
  const rows = await sluice(['dlq', 'list', '--kind', 'outbox'], away);
  assert.equal(rows.code, 0);
  assert.match(rows.stdout, /3 outbox rows/);
});

for (const [what, args, sentence] of [
  ['the kind is none', ['--kind', 'mail'], /Allowed choices are event, outbox, webhook/],
  ['outbox rows of a group are wanted', ['--kind', 'outbox', '--group', 'g'], /outbox has none/],
  ['the limit is none', ['--limit', '0'], /whole number from 1 to 10000/],
] as const) {
  test(`it exits with 2 and a sentence when ${what}`, async () => {
    const { code, stdout, stderr } = await sluice(['dlq', 'list', ...args], env);
    assert.deepEqual([code, stdout], [2, '']);
    assert.match(stderr, sentence);
  });
}

test('it says so when Kafka has no such topic', async () => {
  const other = { ...env, SLUICE_KAFKA_TOPIC_PREFIX: 'nothing.' };
  const { code, stderr } = await sluice(['dlq', 'list'], other);
  assert.equal(code, 2);
  assert.match(stderr, /has no dead letters of nothing\.sluice\.order\.events/);
});

test('a replay gives what waits for an operator another try, within its limit, and a dry run changes nothing', async () => {
  const dry = await json('replay', '--dry-run');
  assert.deepEqual(
    dry.map(({ kind, reason }) => [kind, reason]),
    [
      ['event', 'TypeError: cannot be handled'],
      ['outbox', 'refused by Kafka'],
      ['outbox', 'the row cannot be read'],
    ],
  );
  assert.deepEqual(await operatorsRows(), [1, 1]);
  const [first] = await json('replay', '--kind', 'outbox', '--limit', '1');
  assert.equal(first?.reason, 'refused by Kafka');
  assert.deepEqual(await operatorsRows(), [0, 1]);
  const { stdout } = await sluice(['dlq', 'replay'], env);
  assert.match(stdout, /1 dead letters and 1 outbox rows were replayed\./);
  assert.deepEqual(await operatorsRows(), [0, 0]);
  assert.deepEqual(await json('replay'), []);
  const [letter, ...rows] = await json('list');
  assert.equal(letter?.replayed, true);
  assert.ok(rows.every(({ waits }) => waits === true));
});

test('a webhook that was set aside is shown, and a replay has it tried at once', async () => {
  const pool = createPool(mysqlUrl, { database: `${prefix}_payment`, connectionsMax: 1 });
  try {
    await pool.query(
      `INSERT INTO webhooks_aside (provider, event_id, body, failure, attempts, next_time, create_time)
       VALUES ('stripe', 'evt_1', 'body', 'Out of range', 6, NOW(3) + INTERVAL 1 HOUR, NOW(3))`,
    );
    const isDue = async (): Promise<boolean> => {
      const sql = 'SELECT next_time <= NOW(3) AS is_due FROM webhooks_aside';
      const [[row]] = await pool.query<RowDataPacket[]>(sql);
      return Number(row?.is_due) === 1;
    };
    const shown = await sluice(['dlq', 'list', '--kind', 'webhook'], env);
    assert.match(
      shown.stdout,
      /webhook evt_1 of stripe {2}tried 6 times, next at .*\n {2}Out of range\n/,
    );
    assert.match(shown.stdout, /0 dead letters and 1 webhooks\.\n$/);
    const [dry] = await json('replay', '--kind', 'webhook', '--dry-run');
    assert.deepEqual([dry?.kind, dry?.eventId, dry?.attempts], ['webhook', 'evt_1', 6]);
    assert.equal(await isDue(), false);
    const replayed = await sluice(['dlq', 'replay', '--kind', 'webhook'], env);
    assert.match(replayed.stdout, /1 webhooks were replayed\./);
    assert.equal(await isDue(), true);
  } finally {
    await pool.end();
  }
});
