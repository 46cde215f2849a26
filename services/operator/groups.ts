import type { Admin } from 'kafkajs';
import { whenGroupsLoaded } from '../runtime/group-loading.ts';
import { createKafka, orderEventsTopic } from '../runtime/kafka.ts';
import type { Log } from '../runtime/log.ts';
import type { OperatorConfig } from './config.ts';
import { CouldNotLook } from './could-not-look.ts';

/** The consumer groups of the events process, as they are called behind the topic's prefix. */
export const eventGroups = ['user-statistics', 'warehouse', 'confirmation-mail'] as const;
export type EventGroup = (typeof eventGroups)[number];

/** How far one group has come. */
export interface GroupProgress {
  readonly group: EventGroup;
  /** Events in Kafka that it has not consumed yet. */
  readonly eventsBehind: bigint;
  /** Of the events in Kafka those of this long ago, or earlier, are consumed; 0 if nothing is left. Infinity if nothing is known. */
  readonly consumedAgeSeconds: number;
}

export interface GroupReader {
  /** Asks Kafka. @throws CouldNotLook, and from then on always, so that nobody waits for Kafka twice */
  read(): Promise<readonly GroupProgress[]>;
  close(): Promise<void>;
}

/** The ages that are tried, in seconds, each about half more than the one before; Kafka keeps a week by default. */
const ages = agesUpTo(32 * 86_400);

/** Reads committed offsets; effects are there before their offset is committed. */
export function connectGroups(config: OperatorConfig, log: Log): GroupReader {
  const { kafkaBrokers, topicPrefix } = config;
  const admin = createKafka('sluice-audit', kafkaBrokers, log).admin();
  let connected: Promise<void> | undefined;
  let failure: CouldNotLook | undefined;
  return {
    async read() {
      if (failure !== undefined) throw failure;
      try {
        connected ??= admin.connect();
        await connected;
        return await whenGroupsLoaded(() => readProgress(admin, topicPrefix));
      } catch (error) {
        failure = failureOf(error, config);
        throw failure;
      }
    },
    async close() {
      await connected?.catch(() => undefined);
      await admin.disconnect();
    },
  };
}

type Offsets = ReadonlyMap<number, bigint>;

async function readProgress(admin: Admin, topicPrefix: string): Promise<GroupProgress[]> {
  const topic = orderEventsTopic(topicPrefix);
  // One after the other: what still runs when another fails would connect again, for ever.
  const reached: [EventGroup, Offsets][] = [];
  for (const group of eventGroups) {
    const groupId = `${topicPrefix}${group}`;
    const [committed] = await admin.fetchOffsets({ groupId, topics: [topic] });
    reached.push([group, offsetsOf(committed?.partitions ?? [])]);
  }
  // Read after the groups' places, so that a group is never further than the end.
  const ends = await admin.fetchTopicOffsets(topic);
  const nowMs = Date.now();
  const known = new Map<number, Promise<Offsets>>();
  function firstSince(ageSeconds: number): Promise<Offsets> {
    const first =
      known.get(ageSeconds) ??
      admin.fetchTopicOffsetsByTimestamp(topic, nowMs - ageSeconds * 1_000).then(offsetsOf);
    known.set(ageSeconds, first);
    return first;
  }
  const progress: GroupProgress[] = [];
  for (const [group, committed] of reached) {
    // A group that has committed nothing, or whose place is gone, begins with what is there.
    const next = new Map(
      ends.map(({ partition, low }) => [
        partition,
        max(committed.get(partition) ?? 0n, BigInt(low)),
      ]),
    );
    let eventsBehind = 0n;
    for (const { partition, high } of ends) {
      eventsBehind += max(BigInt(high) - (next.get(partition) ?? 0n), 0n);
    }
    const consumedAgeSeconds = eventsBehind > 0n ? await consumedAge(next, firstSince) : 0;
    progress.push({ group, eventsBehind, consumedAgeSeconds });
  }
  return progress;
}

/** The youngest of the ages before which nothing is left to consume: what is consumed at one age is so at all older ones. */
async function consumedAge(
  next: Offsets,
  firstSince: (ageSeconds: number) => Promise<Offsets>,
): Promise<number> {
  let low = 0;
  let high = ages.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const first = await firstSince(ages[middle] as number);
    const isConsumed = [...first].every(
      ([partition, offset]) => offset <= (next.get(partition) ?? 0n),
    );
    if (isConsumed) high = middle;
    else low = middle + 1;
  }
  return ages[low] ?? Number.POSITIVE_INFINITY;
}

function offsetsOf(places: readonly { partition: number; offset: string }[]): Offsets {
  return new Map(places.map(({ partition, offset }) => [partition, BigInt(offset)]));
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function agesUpTo(lastSeconds: number): number[] {
  const seconds = [1];
  for (let age = 2; age < lastSeconds; age = Math.ceil(age * 1.5)) seconds.push(age);
  return [...seconds, lastSeconds];
}

function failureOf(error: unknown, { kafkaBrokers, topicPrefix }: OperatorConfig): CouldNotLook {
  const { type, message } = error as { type?: string; message: string };
  const at = `Kafka at ${kafkaBrokers.join(',')}`;
  if (type === 'UNKNOWN_TOPIC_OR_PARTITION') {
    return new CouldNotLook(
      `${at} has no topic ${orderEventsTopic(topicPrefix)}: is SLUICE_KAFKA_TOPIC_PREFIX right?`,
      error,
    );
  }
  return new CouldNotLook(
    `${at} could not be asked how far the groups are (${message}): is it running, and is SLUICE_KAFKA_BROKERS right?`,
    error,
  );
}
