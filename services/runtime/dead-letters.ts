import type { Admin, IHeaders, Kafka, KafkaMessage, TopicPartitionOffset } from 'kafkajs';
import { Deadline } from './deadline.ts';
import { createEventPublisher, type EventMessage } from './event-publisher.ts';
import { whenGroupsLoaded } from './group-loading.ts';
import { createKafka, deadLetterTopic } from './kafka.ts';
import { createLog, type Log } from './log.ts';
import { readTopic } from './topic-reader.ts';

/** Names the one group that a replayed message is meant for; the others have had its effect. */
const replayForHeader = 'replay-for';
const publishMs = 10_000;
const replayChunk = 100;

/** A message that no retry could help, as the group that failed left it. */
export interface DeadLetter {
  /** Its place among the dead letters. */
  readonly partition: number;
  readonly offset: string;
  readonly time: Date;
  /** The group that could not handle it. */
  readonly group: string;
  readonly reason: string;
  /** Where the message was. */
  readonly origin: { readonly topic: string; readonly partition: number; readonly offset: string };
  readonly key: string;
  readonly value: Uint8Array;
  /** Whether it was given to its group again. */
  readonly replayed: boolean;
}

export interface DeadLettersOptions {
  readonly brokers: readonly string[];
  /** The topic that the messages were in; its dead letters have a topic of their own. */
  readonly topic: string;
  /** Letters of this group only. */
  readonly group?: string | undefined;
  /** Letters at most. */
  readonly limit: number;
  readonly log?: Log;
}

/** The newest dead letters, oldest of them first. @throws Error if Kafka cannot be read */
export async function listDeadLetters(options: DeadLettersOptions): Promise<DeadLetter[]> {
  const newest: DeadLetter[] = [];
  await eachLetter(options, (letter) => {
    newest.push(letter);
    if (newest.length > options.limit) newest.shift();
    return true;
  });
  return newest;
}

/**
 * Publishes the oldest letters that were not replayed yet to their topic again, each for the group
 * that failed alone, and remembers how far each group's letters were replayed. A replay that is
 * cut short repeats some; the effects are those of one.
 *
 * @returns the letters that were replayed, or would be
 * @throws Error if Kafka is away
 */
export async function replayDeadLetters(
  options: DeadLettersOptions & { readonly dryRun?: boolean },
): Promise<DeadLetter[]> {
  const { brokers, topic, limit, dryRun = false, log = silent() } = options;
  const letters: DeadLetter[] = [];
  await eachLetter(options, (letter) => {
    if (!letter.replayed && letters.length < limit) letters.push(letter);
    return letters.length < limit;
  });
  if (dryRun || letters.length === 0) return letters;
  const publisher = createEventPublisher({ clientId: 'sluice-replay', brokers, log });
  try {
    for (let from = 0; from < letters.length; from += replayChunk) {
      const messages = letters.slice(from, from + replayChunk).map(replayOf);
      await publisher.publish(topic, messages, Deadline.after(publishMs));
    }
  } finally {
    await publisher.close();
  }
  await rememberReplayed(
    createKafka('sluice-replay', brokers, log),
    deadLetterTopic(topic),
    letters,
  );
  return letters;
}

/** Whether a group has to handle a message: all but what is replayed for another one. */
export function isMeantFor({ headers }: Pick<KafkaMessage, 'headers'>, groupId: string): boolean {
  const only = header(headers, replayForHeader);
  return only === '' || only === groupId;
}

/** Gives `visit` every letter, oldest first, until it answers false. */
async function eachLetter(
  { brokers, topic, group, log = silent() }: DeadLettersOptions,
  visit: (letter: DeadLetter) => boolean,
): Promise<void> {
  const letters = deadLetterTopic(topic);
  await withAdmin(brokers, log, async (admin) => {
    const replayed = new Map<string, ReadonlyMap<number, bigint>>();
    await readTopic({
      ...{ brokers, log, topic: letters },
      async visit(message, partition) {
        const owner = header(message.headers, 'group');
        if (group !== undefined && owner !== group) return true;
        let reached = replayed.get(owner);
        if (reached === undefined) {
          reached = await replayedUpTo(admin, letters, owner);
          replayed.set(owner, reached);
        }
        const done = BigInt(message.offset) < (reached.get(partition) ?? 0n);
        return visit(letterOf(message, partition, done));
      },
    });
  });
}

function letterOf(message: KafkaMessage, partition: number, replayed: boolean): DeadLetter {
  const { headers } = message;
  return {
    partition,
    offset: message.offset,
    time: new Date(Number(message.timestamp)),
    group: header(headers, 'group'),
    reason: header(headers, 'reason'),
    origin: {
      topic: header(headers, 'topic'),
      partition: Number(header(headers, 'partition')),
      offset: header(headers, 'offset'),
    },
    key: message.key?.toString() ?? '',
    value: message.value ?? new Uint8Array(),
    replayed,
  };
}

function replayOf({ key, value, group }: DeadLetter): EventMessage {
  return { key, value, headers: { [replayForHeader]: group } };
}

/**
 * How far a group's letters were replayed: the committed offsets of a group that never consumes.
 * One for each failing group, because letters of another may lie in between. Kafka forgets the
 * offsets of an idle group after a week by default, and letters stay for a month: older ones count
 * as not replayed again, and a second replay does no harm.
 */
function replayedGroup(letters: string, group: string): string {
  return `${letters}.replayed.${group}`;
}

/** The first offset of each partition that was not replayed. */
async function replayedUpTo(
  admin: Admin,
  letters: string,
  group: string,
): Promise<ReadonlyMap<number, bigint>> {
  const groupId = replayedGroup(letters, group);
  const [committed] = await whenGroupsLoaded(() =>
    admin.fetchOffsets({ groupId, topics: [letters] }),
  );
  return new Map(committed?.partitions.map((each) => [each.partition, BigInt(each.offset)]));
}

async function rememberReplayed(
  kafka: Kafka,
  topic: string,
  replayed: readonly DeadLetter[],
): Promise<void> {
  for (const group of new Set(replayed.map((letter) => letter.group))) {
    const next = new Map<number, string>();
    // They are in the order of their offsets, so the last one of a partition counts.
    for (const { partition, offset, group: owner } of replayed) {
      if (owner === group) next.set(partition, String(BigInt(offset) + 1n));
    }
    const offsets = [...next].map(([partition, offset]) => ({ topic, partition, offset }));
    await whenGroupsLoaded(() => commitAs(kafka, replayedGroup(topic, group), topic, offsets));
  }
}

/** kafkajs's `admin.setOffsets` does the same, but waits for a fetch of 5 s. */
async function commitAs(
  kafka: Kafka,
  groupId: string,
  topic: string,
  offsets: TopicPartitionOffset[],
): Promise<void> {
  const consumer = kafka.consumer({ groupId, allowAutoTopicCreation: false, maxWaitTimeInMs: 100 });
  try {
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    await consumer.run({ autoCommit: false, eachBatch: async () => undefined });
    consumer.pause([{ topic }]);
    await consumer.commitOffsets(offsets);
  } finally {
    await consumer.disconnect();
  }
}

async function withAdmin(
  brokers: readonly string[],
  log: Log,
  work: (admin: Admin) => Promise<void>,
): Promise<void> {
  const admin = createKafka('sluice-dead-letters', brokers, log).admin();
  await admin.connect();
  try {
    await work(admin);
  } finally {
    await admin.disconnect();
  }
}

function header(headers: IHeaders | undefined, name: string): string {
  const value = headers?.[name];
  return (Array.isArray(value) ? value[0] : value)?.toString() ?? '';
}

function silent(): Log {
  return createLog('dead-letters', 'silent');
}
