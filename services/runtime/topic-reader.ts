import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Admin, Consumer, EachBatchPayload, Kafka, KafkaMessage } from 'kafkajs';
import { whenGroupsLoaded } from './group-loading.ts';
import { createKafka } from './kafka.ts';
import type { Log } from './log.ts';

const readMs = 60_000;
const triesMax = 5;
const tryEveryMs = 300;

export interface ReadTopicOptions {
  readonly brokers: readonly string[];
  readonly topic: string;
  readonly log: Log;
  /** Reads these partitions only; default all. */
  readonly partitions?: readonly number[];
  /** Reads messages that came at this time (Unix, ms) or later; default all. */
  readonly sinceMs?: number;
  /** Called for each message, in the order of its partition; false ends the reading. */
  readonly visit: (message: KafkaMessage, partition: number) => boolean | Promise<boolean>;
  /** Time for all of it, default 60 s. */
  readonly withinMs?: number;
}

/**
 * Reads what is in a topic now, from its beginning to its present end, and leaves nothing behind:
 * no offsets, no group.
 *
 * @throws Error if Kafka is away or the topic cannot be read in time
 */
export async function readTopic(options: ReadTopicOptions): Promise<void> {
  const { brokers, topic, log } = options;
  const kafka = createKafka('sluice-reader', brokers, log);
  const admin = kafka.admin();
  await admin.connect();
  try {
    const wanted = options.partitions && new Set(options.partitions);
    const unread = new Map<number, bigint>();
    const first = new Map<number, bigint>();
    if (options.sinceMs !== undefined) {
      const since = await admin.fetchTopicOffsetsByTimestamp(topic, options.sinceMs);
      for (const { partition, offset } of since) first.set(partition, BigInt(offset));
    }
    for (const { partition, high, low } of await endsOf(kafka, topic)) {
      if (wanted && !wanted.has(partition)) continue;
      const begin = first.get(partition) ?? BigInt(low);
      if (BigInt(high) > begin) unread.set(partition, BigInt(high));
    }
    if (unread.size === 0) return;
    await whenGroupsLoaded(() => readWithGroup(kafka, admin, options, unread, first));
  } finally {
    await admin.disconnect();
  }
}

/** Reading takes a group; one of a name that nobody else has, removed again. */
async function readWithGroup(
  kafka: Kafka,
  admin: Admin,
  options: ReadTopicOptions,
  unread: Map<number, bigint>,
  first: ReadonlyMap<number, bigint>,
): Promise<void> {
  const groupId = `${options.topic}.reader.${randomUUID()}`;
  const consumer = kafka.consumer({ groupId, allowAutoTopicCreation: false, maxWaitTimeInMs: 100 });
  try {
    await readToTheEnd(consumer, options, unread, first);
  } finally {
    await consumer.disconnect();
    await admin.deleteGroups([groupId]).catch(() => undefined);
  }
}

/** A partition may be moving, or be so new that nobody leads it yet; kafkajs gives up at once. */
async function endsOf(
  kafka: Kafka,
  topic: string,
): Promise<Awaited<ReturnType<Admin['fetchTopicOffsets']>>> {
  for (let attempt = 1; ; attempt += 1) {
    // Another client each time, because this one goes on asking the leader that it knows.
    const admin = kafka.admin();
    await admin.connect();
    try {
      return await admin.fetchTopicOffsets(topic);
    } catch (error) {
      const { retriable } = error as { retriable?: unknown };
      if (retriable !== true || attempt >= triesMax) throw error;
    } finally {
      await admin.disconnect();
    }
    await sleep(tryEveryMs);
  }
}

/**
 * @param unread the offsets that count as the end, by partition
 * @param first where to begin, by partition; others at their beginning
 */
async function readToTheEnd(
  consumer: Consumer,
  { topic, visit, withinMs = readMs }: ReadTopicOptions,
  unread: Map<number, bigint>,
  first: ReadonlyMap<number, bigint>,
): Promise<void> {
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  let timer: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const late = (): void => reject(new Error(`${topic} could not be read in ${withinMs} ms`));
      timer = setTimeout(late, withinMs);
      consumer.on('consumer.crash', ({ payload }) => reject(payload.error));
      async function read({ batch, heartbeat }: EachBatchPayload): Promise<void> {
        const end = unread.get(batch.partition);
        if (end === undefined) return;
        for (const message of batch.messages) {
          if (BigInt(message.offset) >= end) break;
          // Fetched before the consumer was told where to begin.
          if (BigInt(message.offset) < (first.get(batch.partition) ?? 0n)) continue;
          if (!(await visit(message, batch.partition))) return resolve();
        }
        await heartbeat();
        if (BigInt(batch.lastOffset()) >= end - 1n) unread.delete(batch.partition);
        if (unread.size === 0) resolve();
      }
      const eachBatch = (payload: EachBatchPayload): Promise<void> =>
        read(payload).catch((error) => reject(error));
      consumer.run({ autoCommit: false, eachBatch }).catch(reject);
      for (const partition of unread.keys()) {
        const offset = first.get(partition);
        if (offset !== undefined) consumer.seek({ topic, partition, offset: String(offset) });
      }
    });
  } finally {
    clearTimeout(timer);
  }
}
