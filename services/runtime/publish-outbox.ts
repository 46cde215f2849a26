import { OutboxBatch, type OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import type { Deadline } from './deadline.ts';
import {
  type EventMessage,
  type EventPublisher,
  type PublishOptions,
  RecordRefused,
} from './event-publisher.ts';
import type { OutboxRow } from './outbox-rows.ts';
import type { Unpublished, Unreadable } from './outbox-set-aside.ts';
import { SomeFailed } from './some-failed.ts';

/** A row with the events that are in it. */
export interface ReadRow<Row extends OutboxRow = OutboxRow> {
  readonly row: Row;
  readonly messages: readonly OutboxMessage[];
}

/** Sorts rows into those that can be read and those that cannot. */
export function readRows<Row extends OutboxRow>(
  rows: readonly Row[],
): { readonly readable: ReadRow<Row>[]; readonly unreadable: (Unreadable & { row: Row })[] } {
  const readable: ReadRow<Row>[] = [];
  const unreadable: (Unreadable & { row: Row })[] = [];
  for (const row of rows) {
    try {
      readable.push({ row, messages: messagesIn(row.payload) });
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      unreadable.push({ row, reason: `the row cannot be read: ${text}` });
    }
  }
  return { readable, unreadable };
}

/**
 * Publishes the events of some rows. Answers those that are not published while others are, or that
 * Kafka will never take.
 *
 * @throws Error if nothing was published and nothing was refused: Kafka is away
 */
export async function publishRows(
  publisher: EventPublisher,
  topic: string,
  rows: readonly ReadRow[],
  deadline: Deadline,
  options: PublishOptions = {},
): Promise<Unpublished[]> {
  const events = rows.flatMap(({ row, messages }) => messages.map((message) => ({ row, message })));
  if (events.length === 0) return [];
  try {
    await publisher.publish(topic, events.map(toMessage), deadline, options);
    return [];
  } catch (error) {
    const failures = failuresOf(error, events.length);
    const isRefused = (failure: unknown): boolean => failure instanceof RecordRefused;
    const nothingDone = failures.size === events.length;
    if (nothingDone && ![...failures.values()].some(isRefused)) throw error;
    return [...failures].map(([at, failure]) => ({
      ...(events[at] as (typeof events)[number]),
      refusal: isRefused(failure) ? (failure as Error).message : undefined,
    }));
  }
}

function failuresOf(error: unknown, count: number): ReadonlyMap<number, unknown> {
  if (error instanceof SomeFailed) return error.failures;
  return new Map(Array.from({ length: count }, (_, at) => [at, error]));
}

/** Bytes that are no batch may still look like an empty one. */
function messagesIn(payload: Buffer): OutboxMessage[] {
  const { messages } = OutboxBatch.decode(payload);
  if (messages.length === 0) throw new Error('there is no event in it');
  if (messages.some(({ value }) => value.length === 0)) throw new Error('an event in it is empty');
  return messages;
}

/**
 * The time of an event is that of its row, so that a place in Kafka tells until when orders were
 * followed, also behind an outage. Kafka refuses times of the future; a clock may be ahead.
 */
function toMessage({ row, message }: { row: OutboxRow; message: OutboxMessage }): EventMessage {
  const time = new Date(Math.min(row.createTime.getTime(), Date.now()));
  return { key: String(message.key), value: message.value, time };
}
