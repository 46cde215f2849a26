import { Partitioners } from 'kafkajs';
import { createKafka, orderEventsTopic } from '../../runtime/kafka.ts';
import type { Log } from '../../runtime/log.ts';
import { readTopic } from '../../runtime/topic-reader.ts';
import type { OperatorConfig } from '../config.ts';
import type { LifeEvent } from './life-event.ts';
import { eventInWords } from './life-in-mysql.ts';

const messagesMax = 200_000;
const withinMs = 30_000;
/** Clocks of makers, MySQL and Kafka differ by less. */
const clockMs = 60_000;

/**
 * The order's events that Kafka has: of the partition that its key leads to, from its creation on, and no more than a
 * bounded number of messages. @throws Error if Kafka cannot be read
 */
export async function lifeInKafka(
  { kafkaBrokers, topicPrefix }: OperatorConfig,
  orderId: bigint,
  createdMs: number,
  log: Log,
): Promise<{ events: LifeEvent[]; isComplete: boolean }> {
  const topic = orderEventsTopic(topicPrefix);
  const key = String(orderId);
  const partition = await partitionOf(kafkaBrokers, topic, key, log);
  const events: LifeEvent[] = [];
  let seen = 0;
  await readTopic({
    brokers: kafkaBrokers,
    topic,
    log,
    partitions: [partition],
    sinceMs: createdMs - clockMs,
    withinMs,
    visit(message) {
      seen += 1;
      if (message.key?.toString() === key && message.value) {
        const time = new Date(Number(message.timestamp)).toISOString();
        const where = `partition ${partition}, offset ${message.offset}`;
        const what = `event ${eventInWords(message.value)} (${where})`;
        events.push({ time, store: 'kafka', what });
      }
      return seen < messagesMax;
    },
  });
  return { events, isComplete: seen < messagesMax };
}

async function partitionOf(
  brokers: readonly string[],
  topic: string,
  key: string,
  log: Log,
): Promise<number> {
  const admin = createKafka('sluice-explain', brokers, log).admin();
  await admin.connect();
  try {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    const partitions = topics[0]?.partitions ?? [];
    const partitionMetadata = partitions.map(({ partitionId }) => ({
      partitionErrorCode: 0,
      partitionId,
      leader: 0,
      replicas: [],
      isr: [],
    }));
    const choose = Partitioners.DefaultPartitioner();
    return choose({ topic, partitionMetadata, message: { key, value: null } });
  } finally {
    await admin.disconnect();
  }
}
