import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createEventPublisher,
  type EventMessage,
  type EventPublisher,
  RecordRefused,
} from '../../services/runtime/event-publisher.ts';
import {
  createEventTopics,
  createKafka,
  deadLetterTopic,
  orderEventsTopic,
} from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { PartitionTurns } from '../../services/runtime/partition-turns.ts';
import { faultOfSend } from '../../services/runtime/record-refused.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { SomeFailed } from '../../services/runtime/some-failed.ts';
import { readTopic } from '../../services/runtime/topic-reader.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers, uniquePrefix } from '../support/servers.ts';

const prefix = uniquePrefix('publisher');
const topic = orderEventsTopic(`${prefix}.`);
const brokers = kafkaBrokers.split(',');
const log = createLog('test', 'silent');
/** More than the broker takes in one message. */
const tooLarge = Buffer.alloc(1_500_000, 1);
const soon = (): Deadline => Deadline.after(30_000);
let publisher: EventPublisher;

before(async () => {
  await createEventTopics(brokers, `${prefix}.`, log);
  publisher = createEventPublisher({ clientId: 'test', brokers, log });
});
after(() => publisher?.close());

async function texts(): Promise<string[]> {
  const found: string[] = [];
  await readTopic({
    ...{ brokers, topic, log },
    visit({ value }) {
      found.push(String(value));
      return true;
    },
  });
  return found;
}

test('a message that Kafka never takes fails alone, among those of its partition too', async () => {
  const messages = Array.from({ length: 60 }, (_, at): EventMessage => {
    const key = at < 40 ? 'one partition' : `key ${at}`;
    return { key, value: at === 17 || at === 55 ? tooLarge : Buffer.from(`text ${at}`) };
  });
  const error = await publisher.publish(topic, messages, soon()).then(
    () => undefined,
    (thrown) => thrown,
  );
  assert.ok(error instanceof SomeFailed);
  assert.deepEqual([...error.failures.keys()].sort(), [17, 55]);
  for (const failure of error.failures.values()) assert.ok(failure instanceof RecordRefused);
  const published = new Set(await texts());
  const expected = messages
    .filter(({ value }) => value !== tooLarge)
    .map(({ value }) => `${value}`);
  assert.deepEqual(
    expected.filter((text) => !published.has(text)),
    [],
  );
  await assert.rejects(
    publisher.publish(topic, [messages[17] as EventMessage], soon()),
    RecordRefused,
  );
});

test('a refused message does not make its partition one that is left out', async () => {
  const key = 'the same';
  const refused = publisher.publish(topic, [{ key, value: tooLarge }], soon());
  await assert.rejects(refused, RecordRefused);
  await publisher.publish(topic, [{ key, value: Buffer.from('goes on') }], soon(), {
    skipStuck: true,
  });
});

test('topics that Kafka has lost are created anew, and what is published again arrives', async () => {
  const admin = createKafka('test', brokers, log).admin();
  await admin.connect();
  try {
    await admin.deleteTopics({ topics: [topic, deadLetterTopic(topic)] });
    const message = { key: 'k', value: Buffer.from('after the loss') };
    const publish = (): Promise<boolean> =>
      publisher.publish(topic, [message], Deadline.after(10_000)).then(
        () => true,
        () => false,
      );
    await eventually(publish, 'it is published again', { withinMs: 120_000, everyMs: 200 });
    await eventually(
      async () => (await admin.listTopics()).includes(deadLetterTopic(topic)),
      'the topic of dead letters is there too',
    );
    assert.ok((await texts()).includes('after the loss'));
  } finally {
    await admin.disconnect();
  }
});

test('sends of one partition go one after the other, and one that hangs or fails marks it as stuck', async () => {
  const turns = new PartitionTurns();
  let release = (): void => undefined;
  const hanging = turns.run('a', () => new Promise<void>((resolve) => (release = resolve)));
  let second = false;
  const behind = turns.run('a', async () => {
    second = true;
  });
  await turns.run('b', async () => undefined);
  assert.deepEqual([second, turns.isStuck('a'), turns.isStuck('b')], [false, false, false]);
  await eventually(() => turns.isStuck('a'), 'it hangs');
  release();
  await Promise.all([hanging, behind]);
  assert.deepEqual([second, turns.isStuck('a')], [true, false]);
  await assert.rejects(turns.run('b', () => Promise.reject(new Error('no leader'))));
  assert.ok(turns.isStuck('b'));
  await turns.run('b', async () => undefined);
  assert.equal(turns.isStuck('b'), false, 'the next success clears it');
  await assert.rejects(turns.run('b', () => Promise.reject(new Refusal('OUTCOME_UNKNOWN'))));
  assert.equal(turns.isStuck('b'), false, 'what was never sent says nothing about it');
  await sleep(0);
});

test('errors of sends are told apart by what they say about the messages', () => {
  const protocol = (type: string, retriable: boolean): Error =>
    Object.assign(new Error(type), { name: 'KafkaJSProtocolError', type, retriable });
  const givenUp = (cause: Error): Error =>
    Object.assign(new Error('gave up', { cause }), {
      name: 'KafkaJSNumberOfRetriesExceeded',
      retriable: false,
    });
  assert.equal(faultOfSend(protocol('MESSAGE_TOO_LARGE', false)), 'refused');
  assert.equal(faultOfSend(givenUp(protocol('CORRUPT_MESSAGE', true))), 'refused');
  assert.equal(faultOfSend(givenUp(protocol('NOT_ENOUGH_REPLICAS', true))), 'passing');
  assert.equal(faultOfSend(protocol('TOPIC_AUTHORIZATION_FAILED', false)), 'passing');
  assert.equal(faultOfSend(protocol('SOMETHING_NEW', false)), 'unclear');
  assert.equal(faultOfSend(new Error('socket closed')), 'passing');
});
