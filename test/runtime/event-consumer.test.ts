import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { createConsumerMetrics } from '../../services/runtime/consumer-lag.ts';
import { listDeadLetters } from '../../services/runtime/dead-letters.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { type EventConsumer, startEventConsumer } from '../../services/runtime/event-consumer.ts';
import {
  createEventPublisher,
  type EventPublisher,
} from '../../services/runtime/event-publisher.ts';
import {
  createEventTopics,
  deadLetterTopic,
  orderEventsTopic,
} from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics, type Metrics } from '../../services/runtime/metrics.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers, uniquePrefix } from '../support/servers.ts';

// What one message, one partition or the topic of dead letters may hold up: itself.

const prefix = uniquePrefix('consumer');
const topic = orderEventsTopic(`${prefix}.`);
const groupId = `${prefix}.group`;
const brokers = kafkaBrokers.split(',');
const log = createLog('test', 'silent');
const bounds = { withinMs: 120_000 };
let publisher: EventPublisher;
let consumer: EventConsumer;
let metrics: Metrics;
const handled = new Set<string>();
let handle: (texts: string[], deadline: Deadline) => Promise<void> = async () => undefined;
let takesLetters = true;

before(async () => {
  await createEventTopics(brokers, `${prefix}.`, log);
  publisher = createEventPublisher({ clientId: 'test', brokers, log });
  metrics = createMetrics('test');
  consumer = await startEventConsumer<string>({
    ...{ groupId, brokers, topic, log, metrics: createConsumerMetrics(metrics) },
    publisher: {
      ...publisher,
      async publish(...args) {
        if (!takesLetters && args[0] === deadLetterTopic(topic)) throw new Error('takes none');
        await publisher.publish(...args);
      },
    },
    decode: (value) => Buffer.from(value).toString(),
    async handle(texts, deadline) {
      await handle(texts, deadline);
      for (const text of texts) handled.add(text);
    },
  });
  await eventually(() => consumer.joined(), 'it joins its group', bounds);
});
after(async () => {
  await consumer?.stop();
  await publisher?.close();
});
beforeEach(() => {
  handled.clear();
  handle = async () => undefined;
  takesLetters = true;
});

async function publish(key: string, ...texts: string[]): Promise<void> {
  const messages = texts.map((text) => ({ key, value: Buffer.from(text) }));
  await publisher.publish(topic, messages, Deadline.after(30_000));
}

async function publishEverywhere(name: string): Promise<string[]> {
  const texts = Array.from({ length: 60 }, (_, at) => `${name} ${at}`);
  for (const text of texts) await publish(text, text);
  return texts;
}

async function reasons(): Promise<Map<string, string>> {
  const letters = await listDeadLetters({ brokers, topic, group: groupId, limit: 1_000 });
  return new Map(letters.map(({ value, reason }) => [Buffer.from(value).toString(), reason]));
}

async function gauge(name: string): Promise<number> {
  const text = await metrics.registry.metrics();
  const line = text.split('\n').find((one) => one.startsWith(`${name}{`));
  return Number(line?.split(' ').at(-1) ?? Number.NaN);
}

test('a partition whose events take long holds up no other', async () => {
  let release = (): void => undefined;
  const hanging = new Promise<void>((resolve) => (release = resolve));
  handle = async (texts) => {
    if (texts.includes('slow')) await hanging;
  };
  await publish('a key', 'slow');
  const others = (await publishEverywhere('beside')).slice(0, 40);
  const arrived = (): number => others.filter((text) => handled.has(text)).length;
  // All but those that share its partition.
  await eventually(() => arrived() >= 20, 'the other partitions go on', bounds);
  assert.ok(!handled.has('slow'));
  release();
  await eventually(() => handled.has('slow') && arrived() === 40, 'all are handled', bounds);
});

test('an error that nobody knows, of one event, sets it aside after some seconds; the others go on', async () => {
  let tries = 0;
  handle = async (texts) => {
    if (!texts.includes('cursed')) return;
    tries += 1;
    throw Object.assign(new Error('a trigger says no'), { errno: 1644 });
  };
  const [before, behind] = [
    ['in front 1', 'in front 2'],
    ['behind 1', 'behind 2'],
  ];
  await publish('one key', ...before, 'cursed', ...behind);
  const others = [...before, ...behind];
  await eventually(() => others.every((text) => handled.has(text)), 'the others go on', bounds);
  assert.ok(!(await reasons()).has('cursed'), 'it is tried again for a while');
  await eventually(async () => (await gauge('events_failing')) === 1, 'it is shown', bounds);
  await eventually(async () => (await reasons()).has('cursed'), 'it is set aside', bounds);
  assert.match((await reasons()).get('cursed') ?? '', /a trigger says no/);
  assert.ok(tries >= 3, `${tries} tries`);
  await eventually(async () => (await gauge('events_failing')) === 0, 'nothing fails now', bounds);
  await publish('one key', 'much later');
  await eventually(() => handled.has('much later'), 'its partition goes on', bounds);
});

test('an event that failed for a moment takes effect, and is not set aside', async () => {
  let failures = 0;
  handle = async (texts) => {
    if (!texts.includes('unlucky') || failures >= 4) return;
    failures += 1;
    throw Object.assign(new Error('lock wait'), { errno: 1205 });
  };
  await publish('one key', 'lucky', 'unlucky', 'also lucky');
  await eventually(() => handled.has('unlucky'), 'it is handled', bounds);
  assert.ok(!(await reasons()).has('unlucky'));
});

test('while Kafka takes no dead letters the poison waits, nothing is lost, and the others go on', async () => {
  takesLetters = false;
  handle = async (texts) => {
    if (texts.includes('poison')) throw new TypeError('cannot be handled');
  };
  await publish('one key', 'ahead', 'poison', 'behind');
  await eventually(() => handled.has('ahead') && handled.has('behind'), 'both go on', bounds);
  await eventually(
    async () => (await gauge('dead_letters_unwritten')) === 1,
    'it is shown',
    bounds,
  );
  const others = await publishEverywhere('meanwhile');
  await publish('one key', 'in its partition');
  const arrived = (): boolean => [...others, 'in its partition'].every((text) => handled.has(text));
  await eventually(arrived, 'what comes meanwhile is handled, in its partition too', bounds);
  assert.ok(!(await reasons()).has('poison'));
  takesLetters = true;
  await eventually(async () => (await reasons()).has('poison'), 'the letter is kept', bounds);
  await eventually(
    async () => (await gauge('dead_letters_unwritten')) === 0,
    'nothing waits any more',
    bounds,
  );
});

test('while the database is away nothing is set aside, and then all of it takes effect', async () => {
  let isAway = true;
  let tries = 0;
  handle = async () => {
    tries += 1;
    if (isAway) throw Object.assign(new Error('gone'), { code: 'ECONNREFUSED' });
  };
  const before = (await reasons()).size;
  const texts = Array.from({ length: 300 }, (_, at) => `patient ${at}`);
  await publish('one key', ...texts);
  await eventually(() => tries >= 12, 'it is tried again and again', bounds);
  isAway = false;
  await eventually(() => texts.every((text) => handled.has(text)), 'all take effect', bounds);
  assert.equal((await reasons()).size, before);
});
