import { setTimeout as sleep } from 'node:timers/promises';
import type { EachBatchPayload, KafkaMessage } from 'kafkajs';
import { Deadline } from './deadline.ts';
import type { EventPublisher } from './event-publisher.ts';
import { createKafka, deadLetterTopic } from './kafka.ts';
import type { Log } from './log.ts';
import { mysqlErrno } from './mysql.ts';
import { Refusal } from './refusals.ts';

/** Messages given to one call of the handler at most. */
const handleMax = 500;
/** The broker answers a fetch with this many bytes, or with what there is after this time. */
const fetchBytesMin = 64 * 1024;
const fetchWaitMs = 250;
const retryFirstMs = 100;
const retryLastMs = 5_000;
const startRetryMs = 2_000;

export interface EventConsumerOptions<Event> {
  readonly groupId: string;
  readonly brokers: readonly string[];
  readonly topic: string;
  readonly log: Log;
  /** Reads one message; what it throws sends the message to the dead letters. */
  readonly decode: (value: Uint8Array) => Event;
  /**
   * Carries out the effects of some events, all of them or none that a repetition would not mend:
   * they come again after a failure. A lost database is waited for; any other error is looked for
   * message by message, and the one at fault goes to the dead letters.
   */
  readonly handle: (events: Event[], deadline: Deadline) => Promise<void>;
  /** Publishes dead letters. */
  readonly publisher: EventPublisher;
}

export interface EventConsumer {
  /** Whether the group has assigned partitions to this consumer. */
  joined(): boolean;
  stop(): Promise<void>;
}

/**
 * Follows a topic at least once: offsets are committed behind the effects, from the first message
 * of the topic on, and one bad message never keeps a partition from moving.
 */
export async function startEventConsumer<Event>(
  options: EventConsumerOptions<Event>,
): Promise<EventConsumer> {
  const { groupId, brokers, topic, log } = options;
  const kafka = createKafka(groupId, brokers, log);
  const consumer = kafka.consumer({
    groupId,
    sessionTimeout: 15_000,
    rebalanceTimeout: 10_000,
    heartbeatInterval: 2_000,
    allowAutoTopicCreation: false,
    minBytes: fetchBytesMin,
    maxWaitTimeInMs: fetchWaitMs,
    retry: { retries: Number.MAX_SAFE_INTEGER, maxRetryTime: 5_000 },
  });
  let joined = false;
  const stopping = new AbortController();
  consumer.on('consumer.group_join', () => {
    joined = true;
  });
  consumer.on('consumer.crash', ({ payload }) => {
    joined = false;
    log.error({ err: payload.error, restart: payload.restart, groupId }, 'consumer crashed');
    // Without a restart the group would silently lack this member; a new process heals it.
    if (!payload.restart && !stopping.signal.aborted) process.exit(1);
  });
  async function begin(): Promise<void> {
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    await consumer.run({
      autoCommit: true,
      eachBatchAutoResolve: false,
      partitionsConsumedConcurrently: 4,
      eachBatch: (payload) => consume(options, payload, stopping.signal),
    });
  }
  // The broker may be away at the start, and kafkajs gives up soon; the service works without.
  const started = (async () => {
    for (let failed = false; !stopping.signal.aborted; failed = true) {
      try {
        return await begin();
      } catch (error) {
        if (!failed) log.warn({ err: error, groupId }, 'consumer could not start, will try again');
        await sleep(startRetryMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  })();
  return {
    joined: () => joined,
    async stop() {
      stopping.abort();
      await consumer.disconnect();
      await started;
    },
  };
}

async function consume<Event>(
  options: EventConsumerOptions<Event>,
  payload: EachBatchPayload,
  stopping: AbortSignal,
): Promise<void> {
  const { batch, resolveOffset, heartbeat, isRunning, isStale, commitOffsetsIfNecessary } = payload;
  for (let from = 0; from < batch.messages.length; from += handleMax) {
    if (!isRunning() || isStale() || stopping.aborted) return;
    const messages = batch.messages.slice(from, from + handleMax);
    const readable = await decodeAll(options, messages, batch.partition);
    const done = await handleUntilDone(options, readable, batch.partition, payload, stopping);
    if (!done) return;
    resolveOffset((messages.at(-1) as KafkaMessage).offset);
    await commitOffsetsIfNecessary();
    await heartbeat();
  }
}

interface Readable<Event> {
  readonly message: KafkaMessage;
  readonly event: Event;
}

async function decodeAll<Event>(
  options: EventConsumerOptions<Event>,
  messages: readonly KafkaMessage[],
  partition: number,
): Promise<Readable<Event>[]> {
  const readable: Readable<Event>[] = [];
  for (const message of messages) {
    try {
      readable.push({ message, event: options.decode(message.value ?? new Uint8Array()) });
    } catch (error) {
      await bury(options, message, partition, error);
    }
  }
  return readable;
}

/** Retries while the database is away; answers false if the partition was lost or we stop. */
async function handleUntilDone<Event>(
  options: EventConsumerOptions<Event>,
  readable: readonly Readable<Event>[],
  partition: number,
  { heartbeat, isRunning, isStale }: EachBatchPayload,
  stopping: AbortSignal,
): Promise<boolean> {
  let left = readable;
  let alone = false;
  for (let waitMs = retryFirstMs; left.length > 0; ) {
    if (!isRunning() || isStale() || stopping.aborted) return false;
    const part = alone ? left.slice(0, 1) : left;
    try {
      await options.handle(
        part.map(({ event }) => event),
        Deadline.after(10_000),
      );
      left = left.slice(part.length);
      waitMs = retryFirstMs;
    } catch (error) {
      if (isTransient(error)) {
        options.log.warn({ err: error, topic: options.topic }, 'events will be handled again');
        await sleep(waitMs, undefined, { signal: stopping }).catch(() => undefined);
        waitMs = Math.min(waitMs * 2, retryLastMs);
      } else if (part.length === 1) {
        await bury(options, (part[0] as Readable<Event>).message, partition, error);
        left = left.slice(1);
      } else {
        alone = true;
      }
    }
    await heartbeat();
  }
  return true;
}

function isTransient(error: unknown): boolean {
  return error instanceof Refusal || mysqlErrno(error) !== undefined;
}

/** Keeps a message that no retry can help, with the reason and where it came from. */
async function bury<Event>(
  { topic, groupId, publisher, log }: EventConsumerOptions<Event>,
  message: KafkaMessage,
  partition: number,
  error: unknown,
): Promise<void> {
  const reason = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  log.error({ topic, partition, offset: message.offset, reason }, 'message goes to dead letters');
  const headers = { reason, group: groupId, topic, partition: String(partition) };
  const letter = {
    key: message.key?.toString() ?? '',
    value: message.value ?? new Uint8Array(),
    headers: { ...headers, offset: message.offset },
  };
  await publisher.publish(deadLetterTopic(topic), [letter], Deadline.after(10_000));
}
