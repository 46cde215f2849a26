import { setTimeout as sleep } from 'node:timers/promises';
import { type Kafka, Partitioners, type Producer } from 'kafkajs';
import type { Deadline } from './deadline.ts';
import { createKafka, eventTopicOf } from './kafka.ts';
import type { Log } from './log.ts';
import { restoreLostTopics } from './lost-topics.ts';
import { PartitionTurns } from './partition-turns.ts';
import { type Addressed, notInTime, Outcomes } from './publish-outcomes.ts';
import { faultOfSend, RecordRefused } from './record-refused.ts';

export { RecordRefused } from './record-refused.ts';

/** Kafka refuses a batch of 1 MiB or more; what belongs to one partition goes in several then. */
const batchBytesMax = 512 * 1024;
/** How often those who do not wait for stuck partitions look whether only such are left. */
const lookEveryMs = 100;

/** One message; messages with equal keys stay in one partition, in order. */
export interface EventMessage {
  readonly key: string;
  readonly value: Uint8Array;
  readonly headers?: Readonly<Record<string, string>>;
  /** When it came to be, which may be long before it is published; default now. */
  readonly time?: Date;
}

export interface PublishOptions {
  /** Whether messages of partitions that take none now fail at once instead of waiting; default false. */
  readonly skipStuck?: boolean;
}

/** The port to Kafka's producing side, small enough for another client to stand here. */
export interface EventPublisher {
  /**
   * Publishes all messages and resolves when every replica in sync has them.
   *
   * @throws SomeFailed if some of them are published, with a RecordRefused for each that Kafka will never
   *   take; RecordRefused if it takes none of them; Refusal OUTCOME_UNKNOWN if nothing is known by
   *   the deadline: publish them again
   */
  publish(
    topic: string,
    messages: readonly EventMessage[],
    deadline: Deadline,
    options?: PublishOptions,
  ): Promise<void>;
  close(): Promise<void>;
}

/**
 * Publishes through kafkajs: one `send` for each partition, because a `send` over several can lose
 * acknowledged messages when a leader moves, and one in flight for each partition. A topic that Kafka
 * has lost is created anew.
 */
export function createEventPublisher(options: {
  readonly clientId: string;
  readonly brokers: readonly string[];
  readonly log: Log;
}): EventPublisher {
  const { clientId, brokers, log } = options;
  const kafka = createKafka(clientId, brokers, log);
  const producer = kafka.producer({
    allowAutoTopicCreation: false,
    createPartitioner: Partitioners.DefaultPartitioner,
    retry: { retries: 3 },
  });
  const partitionOf = Partitioners.DefaultPartitioner();
  const partitionCounts = new Map<string, number>();
  const turns = new PartitionTurns();
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
    outcomes: Outcomes,
    deadline: Deadline,
    skipStuck: boolean,
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
    const byPartition = Map.groupBy(outcomes.addressed, ({ message }) =>
      partitionOf({ topic, partitionMetadata, message: { key: message.key, value: null } }),
    );
    const unsettled = new Set<string>();
    const sends = [...byPartition].map(async ([partition, group]) => {
      const name = `${topic}/${partition}`;
      if (skipStuck && turns.isStuck(name)) return;
      unsettled.add(name);
      const send = (batch: readonly Addressed[]): Promise<void> =>
        turns.run(name, async () => {
          // While Kafka hangs, turns would pile up; whoever was told so publishes again anyway.
          if (deadline.passed) throw notInTime();
          await sendBatch(producer, topic, partition, batch);
        });
      const batches = inBatches(group);
      await Promise.all(batches.map((batch) => sendApart(send, batch, outcomes, deadline)));
      unsettled.delete(name);
    });
    const onlyStuckLeft = (): boolean =>
      outcomes.someAcknowledged && [...unsettled].every((name) => turns.isStuck(name));
    const settled = new AbortController();
    const waits = [
      Promise.all(sends),
      ...(skipStuck ? [until(onlyStuckLeft, settled.signal)] : []),
    ];
    await Promise.race(waits).finally(() => settled.abort());
  }

  return {
    async publish(topic, messages, deadline, { skipStuck = false } = {}) {
      if (messages.length === 0) return;
      const outcomes = new Outcomes(messages);
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, Math.max(0, deadline.leftMs()));
      });
      const publishing = publishAll(topic, outcomes, deadline, skipStuck);
      try {
        await Promise.race([publishing.catch((error) => outcomes.failRest(error)), late]);
      } finally {
        clearTimeout(timer);
      }
      const failure = outcomes.failure();
      if (failure === undefined) return;
      // Whether the topic is still what it was is asked again only if nothing went right.
      if (!outcomes.someAcknowledged) partitionCounts.delete(topic);
      const cause = outcomes.anyFailure();
      await restoreLostTopics(cause, { brokers, log, topic: eventTopicOf(topic) });
      throw failure;
    },
    close: () => producer.disconnect(),
  };
}

/** Resolves when the condition holds, or nobody waits for it any more. */
async function until(condition: () => boolean, over: AbortSignal): Promise<void> {
  while (!over.aborted && !condition()) {
    await sleep(lookEveryMs, undefined, { signal: over }).catch(() => undefined);
  }
}

/** Sends a batch; one that is refused goes in halves, so that the message at fault fails alone. */
async function sendApart(
  send: (batch: readonly Addressed[]) => Promise<void>,
  batch: readonly Addressed[],
  outcomes: Outcomes,
  deadline: Deadline,
): Promise<void> {
  try {
    await send(batch);
    outcomes.acknowledge(batch);
  } catch (error) {
    const fault = faultOfSend(error);
    if (fault === 'passing' || deadline.passed) return outcomes.fail(batch, error as Error);
    if (batch.length === 1) {
      const refused = fault === 'refused' ? new RecordRefused(error) : (error as Error);
      return outcomes.fail(batch, refused);
    }
    const half = Math.ceil(batch.length / 2);
    await sendApart(send, batch.slice(0, half), outcomes, deadline);
    await sendApart(send, batch.slice(half), outcomes, deadline);
  }
}

/** Cuts the messages of one partition into batches that Kafka takes. */
function inBatches(messages: readonly Addressed[]): Addressed[][] {
  const batches: Addressed[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const addressed of messages) {
    const { key, value } = addressed.message;
    const own = key.length + value.length;
    if (bytes + own > batchBytesMax) {
      batches.push([]);
      bytes = 0;
    }
    batches.at(-1)?.push(addressed);
    bytes += own;
  }
  return batches;
}

async function sendBatch(
  producer: Producer,
  topic: string,
  partition: number,
  batch: readonly Addressed[],
): Promise<void> {
  await producer.send({
    topic,
    acks: -1,
    timeout: 5_000,
    messages: batch.map(({ message: { key, value, headers, time } }) => ({
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
