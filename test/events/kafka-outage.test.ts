import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type KafkaBroker, startKafka } from '../../deploy/local/kafka.ts';
import { freePort } from '../../deploy/local/port.ts';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import type { RunningEvents } from '../../services/events/compose.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createEventPublisher } from '../../services/runtime/event-publisher.ts';
import { loopAgesMs } from '../../services/runtime/loop.ts';
import { readTopic } from '../../services/runtime/topic-reader.ts';
import { eventually } from '../support/eventually.ts';
import {
  type EventsBench,
  livesOf,
  messageOf,
  recount,
  silent,
  startEventsBench,
  statistics,
} from './support.ts';

let dir: string;
let kafka: KafkaBroker;
let bench: EventsBench;
let events: RunningEvents;
const published: OrderEvent[] = [];

before(async () => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-kafka-'));
  kafka = await startKafka({ dir, port: await freePort(2) });
  bench = await startEventsBench('outage', kafka.brokers);
  events = await bench.start();
});

after(async () => {
  await bench.close();
  await kafka.stop();
  rmSync(dir, { recursive: true, force: true });
});

async function publish(lives: readonly OrderEvent[]): Promise<void> {
  published.push(...lives);
  const brokers = [kafka.brokers];
  const publisher = createEventPublisher({ clientId: 'test', brokers, log: silent });
  await untilPublished(() =>
    publisher.publish(bench.topic, lives.map(messageOf), Deadline.after(30_000)),
  ).finally(() => publisher.close());
}

/** A broker that has just come back may lead nothing yet; what is published twice counts once. */
async function untilPublished(publishing: () => Promise<void>): Promise<void> {
  await eventually(
    () =>
      publishing().then(
        () => true,
        () => false,
      ),
    'Kafka takes the events',
    { everyMs: 500, withinMs: 90_000 },
  );
}

const slow = { timeout: 600_000 };

/** More than between two signs of life of a consumer that works. */
const standsMs = 8_000;

/** How long a consumer has heard nothing from Kafka, in milliseconds. */
function oldestMs(consumer: string): number {
  const found = [...loopAgesMs()].find(([loop]) => {
    return loop.startsWith('consumer of ') && loop.endsWith(consumer);
  });
  return found?.[1] ?? Number.NaN;
}

const ready = async (): Promise<boolean> =>
  (await fetch(`http://127.0.0.1:${events.metricsPort}/readyz`)).ok;

async function expectStatistics(): Promise<void> {
  const text = (figures: object): string => JSON.stringify(Object.entries(figures).sort());
  await eventually(
    async () => text(await statistics(bench.pool)) === text(recount(published)),
    'the statistics contain all events',
    { withinMs: 120_000 },
  );
  assert.deepEqual(await statistics(bench.pool), recount(published));
}

test('after Kafka was away the consumers carry on by themselves', slow, async () => {
  await publish(livesOf(100n, 20));
  await expectStatistics();
  await eventually(ready, 'the process is ready');
  await kafka.kill();
  await eventually(async () => !(await ready()), 'the process says that Kafka is away', {
    withinMs: 60_000,
  });
  for (const name of ['user-statistics', 'warehouse', 'confirmation-mail']) {
    await eventually(() => oldestMs(name) > standsMs, `the consumer ${name} grows old`);
  }
  kafka = await startKafka({ dir, port: kafka.port });
  await publish(livesOf(200n, 20));
  await expectStatistics();
  await eventually(ready, 'the process is ready again', { withinMs: 60_000 });
  for (const name of ['user-statistics', 'warehouse', 'confirmation-mail']) {
    await eventually(() => oldestMs(name) < standsMs, `the consumer ${name} is young again`);
  }
});

test('what was given up while Kafka hung is not published behind its back', slow, async () => {
  const brokers = [kafka.brokers];
  const publisher = createEventPublisher({ clientId: 'test', brokers, log: silent });
  const [event] = livesOf(250n, 1) as [OrderEvent];
  const key = String(event.orderId);
  const publishIn = async (ms: number, attempt: string): Promise<void> => {
    const message = { ...messageOf(event), headers: { attempt } };
    await publisher.publish(bench.topic, [message], Deadline.after(ms));
  };
  published.push(event);
  await untilPublished(() => publishIn(30_000, 'before'));
  process.kill(kafka.pid, 'SIGSTOP');
  try {
    for (let attempt = 1; attempt <= 10; attempt += 1) {
      await assert.rejects(publishIn(100, String(attempt)), /did not acknowledge in time/);
    }
  } finally {
    process.kill(kafka.pid, 'SIGCONT');
  }
  await untilPublished(() => publishIn(30_000, 'after')).finally(() => publisher.close());
  const attempts = new Set<string>();
  await readTopic({
    ...{ brokers, topic: bench.topic, log: silent },
    visit(message) {
      if (message.key?.toString() === key) attempts.add(String(message.headers?.attempt));
      return true;
    },
  });
  // The first one may have been on its way when Kafka stopped.
  attempts.delete('1');
  assert.deepEqual([...attempts], ['before', 'after']);
  await expectStatistics();
});

test('a process that starts while Kafka is away joins when it comes', slow, async () => {
  await events.lifecycle.stop();
  await kafka.kill();
  const starting = bench.start();
  kafka = await startKafka({ dir, port: kafka.port });
  events = await starting;
  await publish(livesOf(300n, 20));
  await expectStatistics();
});

test('a process stops also while Kafka is away', async () => {
  await kafka.kill();
  await events.lifecycle.stop();
  await assert.rejects(ready());
});
