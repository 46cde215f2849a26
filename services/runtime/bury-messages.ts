import type { KafkaMessage } from 'kafkajs';
import type { Counter } from 'prom-client';
import { Deadline } from './deadline.ts';
import { type EventMessage, type EventPublisher, RecordRefused } from './event-publisher.ts';
import { deadLetterTopic } from './kafka.ts';
import type { Log } from './log.ts';
import { SomeFailed } from './some-failed.ts';

/** Kafka may hang; whoever waits for this holds up one partition of one group. */
const publishMs = 5_000;
const reasonLengthMax = 500;

/** A message that is to be set aside, and why. */
export interface Burial {
  readonly message: KafkaMessage;
  readonly partition: number;
  readonly error: unknown;
}

export interface BurialPlace {
  /** The topic that the messages are in. */
  readonly topic: string;
  readonly groupId: string;
  readonly publisher: Pick<EventPublisher, 'publish'>;
  readonly log: Log;
  readonly metrics?: { readonly deadLetters: Counter<'group'> };
}

/**
 * Keeps messages that no retry can help as dead letters, each with the reason and where it came from.
 *
 * @throws Error if Kafka does not take all of them in 5 s; those that it took come a second time then
 */
export async function buryMessages(place: BurialPlace, burials: readonly Burial[]): Promise<void> {
  if (burials.length === 0) return;
  const { topic, groupId, publisher, log, metrics } = place;
  const letters = burials.map((burial) => letterOf(place, burial));
  try {
    await publisher.publish(deadLetterTopic(topic), letters, Deadline.after(publishMs));
  } catch (error) {
    const smaller = tooLarge(error, letters);
    if (smaller === undefined) throw error;
    await publisher.publish(deadLetterTopic(topic), smaller, Deadline.after(publishMs));
  }
  metrics?.deadLetters.inc({ group: groupId }, burials.length);
  for (const { message, partition, error } of burials) {
    const { offset } = message;
    const reason = reasonOf(error);
    log.error({ topic, groupId, partition, offset, reason }, 'message is set aside');
  }
}

function letterOf(
  { topic, groupId }: BurialPlace,
  { message, partition, error }: Burial,
): EventMessage {
  const { key, value, offset } = message;
  const reason = reasonOf(error);
  return {
    key: key?.toString() ?? '',
    value: value ?? new Uint8Array(),
    headers: { reason, group: groupId, topic, partition: String(partition), offset },
  };
}

function reasonOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.slice(0, reasonLengthMax);
}

/** With its reason a message may be larger than Kafka takes: then the letter only says where it is. */
function tooLarge(error: unknown, letters: readonly EventMessage[]): EventMessage[] | undefined {
  if (!(error instanceof SomeFailed)) return undefined;
  const failures = [...error.failures];
  if (!failures.every(([, failure]) => failure instanceof RecordRefused)) return undefined;
  return failures.map(([at]) => ({ ...(letters[at] as EventMessage), value: new Uint8Array() }));
}
