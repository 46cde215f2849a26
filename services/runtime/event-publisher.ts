import { type Kafka, Partitioners, type Producer } from 'kafkajs';
import type { Deadline } from './deadline.ts';
import { createKafka } from './kafka.ts';
import type { Log } from './log.ts';
import { Refusal } from './refusals.ts';

/** Kafka refuses a batch of 1 MiB or more; what belongs to one partition goes in several then. */
const batchBytesMax = 512 * 1024;

/** One message; messages with equal keys stay in one partition, in order. */
export interface EventMessage {
  readonly key: string;
  readonly value: Uint8Array;
  readonly headers?: Readonly<Record<string, string>>;
  /** When it came to be, which may be long before it is published; default now. */
  readonly time?: Date;
}

/** The port to Kafka's producing side, small enough for another client to stand here. */
export interface EventPublisher {
  /**
   * Publishes all messages and resolves when every replica in sync has them.
   *
   * @throws Refusal OUTCOME_UNKNOWN if that is not known by the deadline; publish them again
   */
  publish(topic: string, messages: readonly EventMessage[], deadline: Deadline): Promise<void>;
  close(): Promise<void>;
}

/**
 * Publishes through kafkajs: one `send` for each partition, because a `send` over several can lose
 * acknowledged messages when a leader moves, and one in flight for each partition.
 */
export function createEventPublisher(options: {
  readonly clientId: string;
  readonly brokers: readonly string[];
  readonly log: Log;
}): EventPublisher {
  const kafka = createKafka(options.clientId, options.brokers, options.log);
  const producer = kafka.producer({
    allowAutoTopicCreation: false,
    createPartitioner: Partitioners.DefaultPartitioner,
    retry: { retries: 3 },
  });
  const partitionOf = Partitioners.DefaultPartitioner();
  const partitionCounts = new Map<string, number>();
  const lastSends = new Map<string, Promise<void>>();
  let connecting: Promise<void> | undefined;

  async function connect(): Promise<void> {
    connecting ??= producer.connect();
    try {
      await connecting;
    } catch (error) {
      connecting = undefined;
      throw error;
    }
  }

  async function partitionsOf(topic: string): Promise<number> {
    const known = partitionCounts.get(topic);
    if (known !== undefined) return known;
    const count = await countPartitions(kafka, topic);
    partitionCounts.set(topic, count);
    return count;
  }

  async function publishAll(
    topic: string,
    messages: readonly EventMessage[],
    deadline: Deadline,
  ): Promise<void> {
    await connect();
    const count = await partitionsOf(topic);
    const partitionMetadata = Array.from({ length: count }, (_, partitionId) => ({
      partitionErrorCode: 0,
      partitionId,
      leader: 0,
      replicas: [],
      isr: [],
    }));
    const byPartition = new Map<number, EventMessage[]>();
    for (const message of messages) {
      const keyed = { key: message.key, value: null };
      const partition = partitionOf({ topic, partitionMetadata, message: keyed });
      const group = byPartition.get(partition);
      if (group) group.push(message);
      else byPartition.set(partition, [message]);
    }
    await Promise.all(
      [...byPartition].flatMap(([partition, group]) =>
        inBatches(group).map((batch) =>
          inTurn(lastSends, `${topic}/${partition}`, async () => {
            // While Kafka hangs, turns would pile up; whoever was told so publishes again anyway.
            if (deadline.passed) throw notInTime();
            await send(producer, topic, partition, batch);
          }),
        ),
      ),
    );
  }

  return {
    async publish(topic, messages, deadline) {
      if (messages.length === 0) return;
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(notInTime()), Math.max(0, deadline.leftMs()));
      });
      try {
        await Promise.race([publishAll(topic, messages, deadline), late]);
      } catch (error) {
        partitionCounts.delete(topic);
        throw error;
      } finally {
        clearTimeout(timer);
      }
    },
    close: () => producer.disconnect(),
  };
}

function notInTime(): Refusal {
  return new Refusal('OUTCOME_UNKNOWN', 'Kafka did not acknowledge in time');
}

/** Cuts the messages of one partition into batches that Kafka takes. */
function inBatches(messages: readonly EventMessage[]): EventMessage[][] {
  const batches: EventMessage[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const message of messages) {
    const own = message.key.length + message.value.length;
    if (bytes + own > batchBytesMax) {
      batches.push([]);
      bytes = 0;
    }
    batches.at(-1)?.push(message);
    bytes += own;
  }
  return batches;
}

/** Starts `work` after the last of the same key has ended, however it ended. */
async function inTurn(
  last: Map<string, Promise<void>>,
  key: string,
  work: () => Promise<void>,
): Promise<void> {
  const before = last.get(key) ?? Promise.resolve();
  const mine = before.then(work, work);
  last.set(key, mine);
  try {
    await mine;
  } finally {
    if (last.get(key) === mine) last.delete(key);
  }
}

async function send(
  producer: Producer,
  topic: string,
  partition: number,
  messages: readonly EventMessage[],
): Promise<void> {
  await producer.send({
    topic,
    acks: -1,
    timeout: 5_000,
    messages: messages.map(({ key, value, headers, time }) => ({
      key,
      value: Buffer.from(value.buffer, value.byteOffset, value.byteLength),
      partition,
      ...(headers ? { headers: { ...headers } } : {}),
      ...(time ? { timestamp: String(time.getTime()) } : {}),
    })),
  });
}

async function countPartitions(kafka: Kafka, topic: string): Promise<number> {
  const admin = kafka.admin();
  await admin.connect();
  try {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    const count = topics[0]?.partitions.length ?? 0;
    if (count === 0) throw new Error(`the topic ${topic} has no partitions`);
    return count;
  } finally {
    await admin.disconnect();
  }
}
