import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Consumer, EachBatchPayload, KafkaMessage } from 'kafkajs';
import { type ConsumerMetrics, startConsumerLag } from './consumer-lag.ts';
import { buryMessage, isMeantFor } from './dead-letters.ts';
import { Deadline } from './deadline.ts';
import type { EventPublisher } from './event-publisher.ts';
import { FailpointError, failpoints } from './failpoints.ts';
import { createKafka } from './kafka.ts';
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
const restartMs = 1_000;
const handleMs = 10_000;
/** A consumer that died holds up its partitions this long. */
const sessionMs = 10_000;
const heartbeatMs = 2_000;

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
  /** Where its lag, and how many dead letters it wrote, is counted. */
  readonly metrics?: ConsumerMetrics;
}

export interface EventConsumer {
  /** Whether the group has assigned partitions to this consumer. */
  joined(): boolean;
  /** Whether Kafka answered lately. */
  connected(): boolean;
  stop(): Promise<void>;
}

/**
 * Follows a topic at least once: offsets are committed behind the effects, from the first message
 * of the topic on, and one bad message never keeps a partition from moving.
 */
export async function startEventConsumer<Event>(
  options: EventConsumerOptions<Event>,
): Promise<EventConsumer> {
  const { groupId, log } = options;
  const stopping = new AbortController();
  const stopped = once(stopping.signal, 'abort');
  let current: Consumer | undefined;
  let joined = false;
  let answeredAtMs = Number.NEGATIVE_INFINITY;

  /** Follows the topic until the connection is lost for good or we stop. */
  async function follow(consumer: Consumer): Promise<void> {
    const answered = (): void => {
      answeredAtMs = performance.now();
    };
    consumer.on('consumer.group_join', () => {
      joined = true;
      answered();
    });
    consumer.on('consumer.heartbeat', answered);
    consumer.on('consumer.fetch', answered);
    const crashed = new Promise<never>((_, reject) => {
      consumer.on('consumer.crash', ({ payload }) => reject(payload.error));
    });
    crashed.catch(() => undefined);
    await begin(consumer, options, stopping.signal);
    await Promise.race([crashed, stopped]);
  }

  // The broker may be away, at the start or later; the service works without it meanwhile.
  const running = (async () => {
    while (!stopping.signal.aborted) {
      current = createConsumer(options);
      try {
        await follow(current);
      } catch (error) {
        if (!stopping.signal.aborted) log.warn({ err: error, groupId }, 'consumer begins anew');
      }
      joined = false;
      await current.disconnect().catch(() => undefined);
      await sleep(restartMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();
  const lag = options.metrics && startConsumerLag({ ...options, gauge: options.metrics.lag });
  return {
    joined: () => joined,
    connected: () => joined && performance.now() - answeredAtMs < sessionMs,
    async stop() {
      stopping.abort();
      // Also while it is only about to join; `running` disconnects what joined nevertheless.
      await Promise.all([lag?.stop(), current?.disconnect().catch(() => undefined)]);
      await running;
    },
  };
}

function createConsumer<Event>({ groupId, brokers, log }: EventConsumerOptions<Event>): Consumer {
  return createKafka(groupId, brokers, log).consumer({
    groupId,
    sessionTimeout: sessionMs,
    rebalanceTimeout: 10_000,
    heartbeatInterval: heartbeatMs,
    allowAutoTopicCreation: false,
    minBytes: fetchBytesMin,
    maxWaitTimeInMs: fetchWaitMs,
    // kafkajs would restart after some errors and not after others, and a restart that it has
    // begun cannot be stopped: after a crash a new consumer takes over instead.
    retry: { retries: 5, maxRetryTime: 2_000, restartOnFailure: async () => false },
  });
}

async function begin<Event>(
  consumer: Consumer,
  options: EventConsumerOptions<Event>,
  stopping: AbortSignal,
): Promise<void> {
  await consumer.connect();
  if (stopping.aborted) return;
  await consumer.subscribe({ topic: options.topic, fromBeginning: true });
  if (stopping.aborted) return;
  await consumer.run({
    autoCommit: true,
    eachBatchAutoResolve: false,
    partitionsConsumedConcurrently: 4,
    eachBatch: (payload) => consume(options, payload, stopping),
  });
}

async function consume<Event>(
  options: EventConsumerOptions<Event>,
  payload: EachBatchPayload,
  stopping: AbortSignal,
): Promise<void> {
  const { batch, resolveOffset, heartbeat, isRunning, isStale } = payload;
  // A handler that waits for its database must not lose its partitions meanwhile; what a heartbeat
  // has to say (the group rebalances) the awaited one below hears too.
  const beating = setInterval(() => void heartbeat().catch(() => undefined), heartbeatMs);
  try {
    for (let from = 0; from < batch.messages.length; from += handleMax) {
      if (!isRunning() || isStale() || stopping.aborted) return;
      const messages = batch.messages.slice(from, from + handleMax);
      const readable = await decodeAll(options, messages, batch.partition);
      const done = await handleUntilDone(options, readable, payload, stopping);
      if (!done) return;
      await hit('consumer.after_handle', options, batch.partition);
      resolveOffset((messages.at(-1) as KafkaMessage).offset);
      await heartbeat();
    }
  } finally {
    clearInterval(beating);
  }
}

interface Readable<Event> {
  readonly message: KafkaMessage;
  readonly event: Event;
}

/** Reads the messages that are meant for this group; a replayed letter is meant for one alone. */
async function decodeAll<Event>(
  options: EventConsumerOptions<Event>,
  messages: readonly KafkaMessage[],
  partition: number,
): Promise<Readable<Event>[]> {
  const readable: Readable<Event>[] = [];
  for (const message of messages) {
    if (!isMeantFor(message, options.groupId)) continue;
    try {
      readable.push({ message, event: options.decode(message.value ?? new Uint8Array()) });
    } catch (error) {
      await buryMessage(options, message, partition, error);
    }
  }
  return readable;
}

/** Retries while the database is away; answers false if the partition was lost or we stop. */
async function handleUntilDone<Event>(
  options: EventConsumerOptions<Event>,
  readable: readonly Readable<Event>[],
  { batch: { partition }, heartbeat, isRunning, isStale }: EachBatchPayload,
  stopping: AbortSignal,
): Promise<boolean> {
  let left = readable;
  let alone = false;
  for (let waitMs = retryFirstMs; left.length > 0; ) {
    if (!isRunning() || isStale() || stopping.aborted) return false;
    const part = alone ? left.slice(0, 1) : left;
    await hit('consumer.before_handle', options, partition);
    try {
      const events = part.map(({ event }) => event);
      await options.handle(events, Deadline.after(handleMs));
      left = left.slice(part.length);
      waitMs = retryFirstMs;
    } catch (error) {
      if (isTransient(error)) {
        const { topic, groupId } = options;
        options.log.warn({ err: error, topic, groupId }, 'events will be handled again');
        await sleep(waitMs, undefined, { signal: stopping }).catch(() => undefined);
        waitMs = Math.min(waitMs * 2, retryLastMs);
      } else if (part.length === 1) {
        await buryMessage(options, (part[0] as Readable<Event>).message, partition, error);
        left = left.slice(1);
      } else {
        alone = true;
      }
    }
    await heartbeat();
  }
  return true;
}

/** A lost or crowded database passes; so does what a test breaks on its way. */
function isTransient(error: unknown): boolean {
  const errno = mysqlErrno(error);
  if (errno !== undefined) return !badValueErrnos.has(errno);
  return error instanceof Refusal || error instanceof FailpointError;
}

/** The database will never take these values: null, too long, out of range, against a CHECK. */
const badValueErrnos = new Set([1048, 1264, 1292, 1366, 1406, 1690, 3819, 4025]);

async function hit(
  name: string,
  { groupId }: { readonly groupId: string },
  partition: number,
): Promise<void> {
  if (failpoints.on) await failpoints.hit(name, { group: groupId, partition });
}
