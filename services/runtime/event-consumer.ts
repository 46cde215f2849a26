import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Consumer } from 'kafkajs';
import { ConsumeBatches } from './consume-batch.ts';
import { type ConsumerMetrics, startConsumerLag } from './consumer-lag.ts';
import type { Deadline } from './deadline.ts';
import { EventPacer } from './event-pacer.ts';
import type { EventPublisher } from './event-publisher.ts';
import { createKafka } from './kafka.ts';
import type { Log } from './log.ts';
import { showLoop } from './loop.ts';
import { restoreLostTopics } from './lost-topics.ts';

/**
 * The broker answers a fetch with this many bytes, or with what there is after this time. Each fetch and
 * each small transaction costs what a large one costs, so few large ones are cheap.
 */
const promptFetch = { minBytes: 512 * 1024, maxWaitTimeInMs: 400 };
const sparingFetch = { minBytes: 512 * 1024, maxWaitTimeInMs: 1_000 };
/** Offsets are committed behind what one fetch brings of a partition: some seconds of a paced consumer. */
const partitionBytesMax = 256 * 1024;
/** What a fetch brings of several partitions may share one transaction of the handler; all have a worker. */
const partitionsAtOnce = 12;
const restartMs = 1_000;
/** A consumer that died holds up its partitions this long; brokers allow no less unless they are told. */
const sessionMs = 6_000;
/** How often the broker hears that a consumer lives, also while a batch waits. */
const heartbeatMs = 2_000;

export interface EventConsumerOptions<Event> {
  readonly groupId: string;
  readonly brokers: readonly string[];
  readonly topic: string;
  readonly log: Log;
  /** Reads one message; what it throws sends the message to the dead letters. */
  readonly decode: (value: Uint8Array) => Event;
  /**
   * Carries out the effects of some events, all of them or none that a repetition would not mend;
   * or it throws `SomeFailed`, which names those that failed. Events come again after a failure, also
   * in another order, and in smaller parts. A lost database is waited for. An event that fails by
   * itself goes to the dead letters: at once if it never can take effect, else after some seconds in
   * which others did.
   */
  readonly handle: (events: Event[], deadline: Deadline) => Promise<void>;
  /** Spreads what is taken up of all partitions over time; default no limit. */
  readonly pacer?: EventPacer;
  /** Fetches rarely and much: an event may wait a second more, and Kafka has less to do. Default false. */
  readonly sparing?: boolean;
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
 * of the topic on. One bad message never keeps a partition from moving, nor one partition the others.
 */
export async function startEventConsumer<Event>(
  options: EventConsumerOptions<Event>,
): Promise<EventConsumer> {
  const { groupId, log } = options;
  const stopping = new AbortController();
  const pacer = options.pacer ?? new EventPacer(undefined);
  const batches = new ConsumeBatches(options, pacer, stopping.signal);
  const stopped = once(stopping.signal, 'abort');
  let current: Consumer | undefined;
  let joined = false;
  let answeredAtMs = Number.NEGATIVE_INFINITY;
  const shown = showLoop(`consumer of ${groupId}`);

  /** Follows the topic until the connection is lost for good or we stop. */
  async function follow(consumer: Consumer): Promise<void> {
    const answered = (): void => {
      answeredAtMs = performance.now();
      shown.succeeded();
    };
    consumer.on('consumer.group_join', () => {
      joined = true;
      batches.forget();
      answered();
    });
    consumer.on('consumer.rebalancing', () => batches.forget());
    consumer.on('consumer.heartbeat', answered);
    consumer.on('consumer.fetch', answered);
    const crashed = new Promise<never>((_, reject) => {
      consumer.on('consumer.crash', ({ payload }) => reject(payload.error));
    });
    crashed.catch(() => undefined);
    await begin(consumer, options, batches, stopping.signal);
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
        await restoreLostTopics(error, options);
      }
      joined = false;
      batches.forget();
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
      // What is done is committed before the group is left.
      await batches.idle();
      // Also while it is only about to join; `running` disconnects what joined nevertheless.
      await Promise.all([lag?.stop(), current?.disconnect().catch(() => undefined)]);
      await running;
      shown.ended();
    },
  };
}

function createConsumer<Event>(options: EventConsumerOptions<Event>): Consumer {
  const { groupId, brokers, log, sparing = false } = options;
  return createKafka(groupId, brokers, log).consumer({
    groupId,
    sessionTimeout: sessionMs,
    rebalanceTimeout: 10_000,
    heartbeatInterval: heartbeatMs,
    allowAutoTopicCreation: false,
    ...(sparing ? sparingFetch : promptFetch),
    maxBytesPerPartition: partitionBytesMax,
    // kafkajs would restart after some errors and not after others, and a restart that it has
    // begun cannot be stopped: after a crash a new consumer takes over instead.
    retry: { retries: 5, maxRetryTime: 2_000, restartOnFailure: async () => false },
  });
}

async function begin<Event>(
  consumer: Consumer,
  options: EventConsumerOptions<Event>,
  batches: ConsumeBatches<Event>,
  stopping: AbortSignal,
): Promise<void> {
  await consumer.connect();
  if (stopping.aborted) return;
  await consumer.subscribe({ topic: options.topic, fromBeginning: true });
  if (stopping.aborted) return;
  await consumer.run({
    autoCommit: true,
    eachBatchAutoResolve: false,
    partitionsConsumedConcurrently: partitionsAtOnce,
    eachBatch: (payload) => batches.eachBatch(payload),
  });
}
