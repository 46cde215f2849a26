import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RowDataPacket } from 'mysql2';
import { migrateAll } from '../../db/migrate.ts';
import { OutboxBatch } from '../../gen/sluice/event/v1/outbox.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { startEventConsumer } from '../../services/runtime/event-consumer.ts';
import {
  createEventPublisher,
  type EventPublisher,
  RecordRefused,
} from '../../services/runtime/event-publisher.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import {
  createEventTopics,
  deadLetterTopic,
  orderEventsTopic,
} from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { loopAgesMs } from '../../services/runtime/loop.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { type OutboxRelay, startOutboxRelay } from '../../services/runtime/outbox-relay.ts';
import { SomeFailed } from '../../services/runtime/some-failed.ts';
import { readTopic } from '../../services/runtime/topic-reader.ts';
import { dropDatabases } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from '../support/servers.ts';

const prefix = uniquePrefix('relay');
const topic = orderEventsTopic(`${prefix}.`);
const brokers = kafkaBrokers.split(',');
const log = createLog('test', 'silent');
let pool: Pool;
let publisher: EventPublisher;
const received: string[] = [];
const letters: string[] = [];
const stops: (() => Promise<void>)[] = [];

before(async () => {
  const orderShards = { databases: 1, tables: 1 };
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  pool = createPool(mysqlUrl, { database: `${prefix}_order_0`, connectionsMax: 10 });
  await createEventTopics(brokers, `${prefix}.`, log);
  publisher = createEventPublisher({ clientId: 'test', brokers, log });
  const texts = await startEventConsumer<string>({
    groupId: `${prefix}.texts`,
    brokers,
    topic,
    log,
    publisher,
    decode: (value) => {
      const text = Buffer.from(value).toString();
      if (text === 'unreadable') throw new Error('cannot be read');
      return text;
    },
    handle: async (events) => {
      if (events.includes('harmful')) throw new TypeError('cannot be handled');
      received.push(...events);
    },
  });
  const dead = await startEventConsumer<string>({
    groupId: `${prefix}.letters`,
    brokers,
    topic: deadLetterTopic(topic),
    log,
    publisher,
    decode: (value) => Buffer.from(value).toString(),
    handle: async (events) => void letters.push(...events),
  });
  stops.push(texts.stop, dead.stop);
  const joined = (): boolean => texts.joined() && dead.joined();
  await eventually(joined, 'the consumers join their groups', { withinMs: 90_000 });
});

after(async () => {
  failpoints.clear();
  for (const stop of stops) await stop();
  await publisher.close();
  await pool.end();
  await dropDatabases(prefix);
});

async function store(...texts: string[]): Promise<void> {
  const messages = texts.map((text, index) => ({ key: BigInt(index), value: Buffer.from(text) }));
  const payload = Buffer.from(OutboxBatch.encode({ messages }).finish());
  await insertRow(payload);
}

async function insertRow(payload: Uint8Array): Promise<void> {
  const sql = 'INSERT INTO outbox (payload, create_time) VALUES (?, NOW(3))';
  await pool.query(sql, [Buffer.from(payload)]);
}

function relay(name = 'test', to = publisher): OutboxRelay {
  return startOutboxRelay({ name, pool, topic, publisher: to, log });
}

async function rows(): Promise<number> {
  const [[row]] = await pool.query<RowDataPacket[]>('SELECT COUNT(*) AS waiting FROM outbox');
  return Number(row?.waiting);
}

/** How long the loop of a relay has not ended a round well, in milliseconds. */
const ageMs = (loop: string): number => loopAgesMs().get(`relay.${loop}`) ?? 0;
/** More than between two rounds of a loop that works, the rest of up to 1.2 s included. */
const standsMs = 3_000;

/** Messages come at least once: a consumer whose group rebalances is given them again. */
const countOf = (text: string): number => received.filter((other) => other === text).length;

test('what is in the outbox reaches the consumer and leaves the outbox', async () => {
  await store('a', 'b', 'c');
  await store('d');
  assert.equal(await rows(), 2);
  const running = relay();
  await eventually(() => ['a', 'b', 'c', 'd'].every((text) => countOf(text) >= 1), 'all arrive');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  await running.stop();
});

test('an event has the time of its row, however late it is published, and none of the future', async () => {
  const beganMs = Date.now();
  await store('old');
  await pool.query('UPDATE outbox SET create_time = NOW(3) - INTERVAL 5 MINUTE');
  await store('ahead');
  await pool.query(
    'UPDATE outbox SET create_time = NOW(3) + INTERVAL 1 DAY ORDER BY id DESC LIMIT 1',
  );
  const running = relay();
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  await running.stop();
  const times = new Map<string, number>();
  await readTopic({
    ...{ brokers, topic, log },
    visit({ value, timestamp }) {
      times.set(String(value), Number(timestamp) - beganMs);
      return true;
    },
  });
  const [oldMs = 0, aheadMs = 0] = [times.get('old'), times.get('ahead')];
  assert(Math.abs(oldMs + 300_000) < 60_000, `${oldMs} ms`);
  assert(aheadMs >= 0 && aheadMs < 60_000, `${aheadMs} ms`);
});

test('a relay that fails between publishing and deleting publishes again', async () => {
  let failures = 0;
  failpoints.set('relay.after_publish', () => {
    failures += 1;
    if (failures === 1) throw new Error('died here');
  });
  await store('twice');
  // The claim of the failed attempt stands for its time; another relay takes over after it.
  const first = relay('first');
  await eventually(() => failures >= 1, 'the first relay fails');
  await first.stop();
  assert.equal(await rows(), 1);
  await pool.query('UPDATE outbox SET owned_until = NOW(3) - INTERVAL 1 SECOND');
  const second = relay('second');
  await eventually(() => countOf('twice') >= 2, 'it arrives a second time');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  await second.stop();
  failpoints.clear();
});

test('two relays share the work without waiting for each other', async () => {
  const texts = Array.from({ length: 60 }, (_, index) => `shared-${index}`);
  for (const text of texts) await store(text);
  const published: string[] = [];
  const counting: EventPublisher = {
    ...publisher,
    async publish(to, messages, deadline) {
      await publisher.publish(to, messages, deadline);
      published.push(...messages.map(({ value }) => Buffer.from(value).toString()));
    },
  };
  const pair = [relay('left', counting), relay('right', counting)];
  await eventually(() => texts.every((text) => countOf(text) >= 1), 'all arrive');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  for (const running of pair) await running.stop();
  assert.deepEqual(published.sort(), texts.sort(), 'each is published once');
});

test('more than Kafka takes at once for one partition arrives all the same', async () => {
  const size = 10_000;
  const messages = Array.from({ length: 250 }, (_, index) => ({
    key: 'one',
    value: Buffer.from(`large-${index}`.padEnd(size, '.')),
  }));
  await publisher.publish(topic, messages, Deadline.after(20_000));
  const arrived = (): string[] => [
    ...new Set(received.filter((text) => text.startsWith('large-'))),
  ];
  await eventually(() => arrived().length === messages.length, 'all arrive');
  assert.deepEqual(
    arrived(),
    messages.map(({ value }) => value.toString()),
  );
});

test('poison goes to the dead letters and the messages behind it are handled', async () => {
  const running = relay();
  await store('before', 'unreadable', 'harmful', 'behind');
  await eventually(() => countOf('before') >= 1 && countOf('behind') >= 1, 'the others arrive');
  const buried = (): string[] => [...new Set(letters)].sort();
  await eventually(() => buried().length >= 2, 'both are buried');
  assert.deepEqual(buried(), ['harmful', 'unreadable']);
  await running.stop();
});

/** Stands before the real publisher and decides about each message by its text. */
function deciding(failureOf: (text: string) => Error | undefined): EventPublisher {
  return {
    ...publisher,
    async publish(to, messages, deadline) {
      const failures = new Map<number, unknown>();
      for (const [at, { value }] of messages.entries()) {
        const failure = failureOf(Buffer.from(value).toString());
        if (failure) failures.set(at, failure);
      }
      const good = messages.filter((_, at) => !failures.has(at));
      await publisher.publish(to, good, deadline);
      if (failures.size > 0) throw new SomeFailed(failures);
    },
  };
}

async function asides(): Promise<{ texts: string[]; reason: string; waits: boolean }[]> {
  const [found] = await pool.query<RowDataPacket[]>('SELECT * FROM outbox_set_aside ORDER BY id');
  return found.map((row) => ({
    texts: textsIn(row.payload),
    reason: row.reason,
    waits: row.next_time !== null,
  }));
}

function textsIn(payload: Buffer): string[] {
  try {
    return OutboxBatch.decode(payload).messages.map(({ value }) => value.toString());
  } catch {
    return [];
  }
}

test('rows that cannot be read are set aside with their reason, and those around them go on', async () => {
  await store('in front');
  await insertRow(Buffer.from('no batch'));
  await insertRow(OutboxBatch.encode({ messages: [] }).finish());
  await insertRow(Buffer.alloc(0));
  await store('after them');
  const running = relay();
  await eventually(() => countOf('in front') >= 1 && countOf('after them') >= 1, 'both arrive');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  await running.stop();
  const kept = await asides();
  assert.deepEqual(
    kept.map(({ waits }) => waits),
    [false, false, false],
  );
  assert.ok(kept.every(({ reason }) => reason.startsWith('the row cannot be read: ')));
  await pool.query('DELETE FROM outbox_set_aside');
});

test('a refused event is set aside alone; the others of its row and of other rows are published', async () => {
  const refusing = deciding((text) =>
    text.startsWith('refused') ? new RecordRefused(new Error('too large')) : undefined,
  );
  await store('row 1 a', 'refused 1', 'row 1 b');
  await store('row 2');
  await store('refused 2');
  const running = relay('test', refusing);
  const good = ['row 1 a', 'row 1 b', 'row 2'];
  await eventually(() => good.every((text) => countOf(text) >= 1), 'the others arrive');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  const kept = await asides();
  assert.deepEqual(
    kept.map(({ texts, reason, waits }) => [texts, reason, waits]),
    [
      [['refused 1'], 'too large', false],
      [['refused 2'], 'too large', false],
    ],
  );
  await running.stop();
  // As ./sluice dlq replay does it, with the cause mended.
  await pool.query('UPDATE outbox_set_aside SET next_time = NOW(3), attempts = 0');
  const mended = relay();
  await eventually(() => countOf('refused 1') >= 1 && countOf('refused 2') >= 1, 'both arrive');
  await eventually(async () => (await asides()).length === 0, 'nothing is set aside any more');
  await mended.stop();
});

test('events whose partition takes nothing wait apart, are tried again, and hold up no others', async () => {
  let isStuck = true;
  let tries = 0;
  const stuck = deciding((text) => {
    if (!isStuck || !text.startsWith('stuck')) return undefined;
    tries += 1;
    return new Error('no leader');
  });
  await store('first', 'stuck 1');
  await store('stuck 2', 'second');
  const running = relay('test', stuck);
  await eventually(() => countOf('first') >= 1 && countOf('second') >= 1, 'the others arrive');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  for (let at = 0; at < 5; at += 1) {
    await store(`later ${at}`);
    await eventually(() => countOf(`later ${at}`) >= 1, 'what comes later arrives');
  }
  const before = tries;
  await eventually(() => tries >= before + 2, 'they are tried again');
  const kept = await asides();
  assert.deepEqual(kept.flatMap(({ texts }) => texts).sort(), ['stuck 1', 'stuck 2']);
  assert.ok(kept.every(({ waits }) => waits));
  await eventually(() => ageMs('test.waiting') > standsMs, 'the age of their loop rises');
  isStuck = false;
  await eventually(() => countOf('stuck 1') >= 1 && countOf('stuck 2') >= 1, 'they arrive');
  await eventually(async () => (await asides()).length === 0, 'nothing waits any more');
  await eventually(() => ageMs('test.waiting') < standsMs, 'the age of their loop falls');
  await running.stop();
});

test('while Kafka is away nothing is set aside', async () => {
  let tries = 0;
  let isAway = true;
  const away: EventPublisher = {
    ...publisher,
    async publish(...args) {
      tries += 1;
      if (isAway) throw new Error('Kafka is away');
      await publisher.publish(...args);
    },
  };
  await store('patient');
  const running = relay('test', away);
  await eventually(() => tries >= 5, 'it is tried again and again');
  assert.deepEqual([await rows(), await asides()], [1, []]);
  await eventually(() => ageMs('test') > standsMs, 'the age of the relay rises');
  isAway = false;
  await eventually(() => countOf('patient') >= 1, 'it arrives');
  await eventually(() => ageMs('test') < standsMs, 'the age of the relay falls');
  await running.stop();
});

test('a claim is short, and renewed while its relay publishes', async () => {
  let release = (): void => undefined;
  let publishes = 0;
  const slow: EventPublisher = {
    ...publisher,
    async publish(...args) {
      publishes += 1;
      await new Promise<void>((resolve) => (release = resolve));
      await publisher.publish(...args);
    },
  };
  await store('slow');
  const ends = async (): Promise<number> => {
    const [[row]] = await pool.query<RowDataPacket[]>(
      'SELECT UNIX_TIMESTAMP(owned_until) AS until, owned_until > NOW(3) AS stands FROM outbox',
    );
    return Number(row?.stands) === 1 ? Number(row?.until) : 0;
  };
  const first = relay('first', slow);
  await eventually(() => publishes === 1, 'the row is claimed');
  const [[row]] = await pool.query<RowDataPacket[]>(
    'SELECT TIMESTAMPDIFF(MICROSECOND, NOW(3), owned_until) AS left_us FROM outbox',
  );
  assert.ok(Number(row?.left_us) <= 5_000_000, 'others wait five seconds at most for it');
  const before = await ends();
  await eventually(async () => (await ends()) > before, 'the claim is renewed');
  release();
  await eventually(() => countOf('slow') >= 1, 'it arrives');
  await eventually(async () => (await rows()) === 0, 'the outbox is empty');
  await first.stop();
});

test('a claim that a clock far ahead has made holds up nobody when the clock is right again', async () => {
  await store('of the future');
  await pool.query("UPDATE outbox SET owner = 'x', owned_until = NOW(3) + INTERVAL 10 MINUTE");
  const running = relay();
  await eventually(() => countOf('of the future') >= 1, 'it arrives');
  await running.stop();
});

test('the age of a relay that always has more to publish is young', async () => {
  const running = relay('busy');
  let isOver = false;
  const storing = (async () => {
    for (let at = 0; !isOver; at += 1) {
      await store(`busy ${at}`);
      await sleep(20);
    }
  })();
  let youngAgain = 0;
  let lastMs = 0;
  try {
    await eventually(() => {
      const nowMs = ageMs('busy');
      if (nowMs < lastMs && lastMs > 500) youngAgain += 1;
      lastMs = nowMs;
      return youngAgain >= 3;
    }, 'rounds end well while there is more to do');
  } finally {
    isOver = true;
    await storing;
    await eventually(async () => (await rows()) === 0, 'the outbox is empty');
    await running.stop();
  }
});
