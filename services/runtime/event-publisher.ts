import { type Kafka, Partitioners, type Producer } from 'kafkajs';
import type { Deadline } from './deadline.ts';
import { createKafka } from './kafka.ts';
import type { Log } from './log.ts';
import { Refusal } from './refusals.ts';

/** One message; messages with equal keys stay in one partition, in order. */
export interface EventMessage {
  readonly key: string;
  readonly value: Uint8Array;
  readonly headers?: Readonly<Record<string, string>>;
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

  async function publishAll(topic: string, messages: readonly EventMessage[]): Promise<void> {
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
      [...byPartition].map(([partition, group]) =>
        inTurn(lastSends, `${topic}/${partition}`, () => send(producer, topic, partition, group)),
      ),
    );
  }

  return {
    async publish(topic, messages, deadline) {
      if (messages.length === 0) return;
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        const giveUp = (): void =>
          reject(new Refusal('OUTCOME_UNKNOWN', 'Kafka did not acknowledge in time'));
        timer = setTimeout(giveUp, Math.max(0, deadline.leftMs()));
      });
      try {
        await Promise.race([publishAll(topic, messages), late]);
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
    messages: messages.map(({ key, value, headers }) => ({
      key,
      value: Buffer.from(value.buffer, value.byteOffset, value.byteLength),
      partition,
      ...(headers ? { headers: { ...headers } } : {}),
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
