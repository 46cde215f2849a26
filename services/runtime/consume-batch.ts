import { setTimeout as sleep } from 'node:timers/promises';
import type { EachBatchPayload, KafkaMessage } from 'kafkajs';
import { buryMessage, isMeantFor } from './dead-letters.ts';
import { Deadline } from './deadline.ts';
import type { EventConsumerOptions } from './event-consumer.ts';
import type { EventPacer } from './event-pacer.ts';
import { FailpointError, failpoints } from './failpoints.ts';
import { mysqlErrno } from './mysql.ts';
import { Refusal } from './refusals.ts';

/** Messages given to one call of the handler at most. */
const handleMax = 500;
const handleMs = 10_000;
const retryFirstMs = 100;
const retryLastMs = 5_000;

export interface Pace {
  readonly pacer: EventPacer;
  /** How often the broker hears that the consumer lives, also while a batch waits. */
  readonly heartbeatMs: number;
  readonly stopping: AbortSignal;
}

/** Carries out what a fetch brought of one partition, and says how far it came. */
export async function consumeBatch<Event>(
  options: EventConsumerOptions<Event>,
  payload: EachBatchPayload,
  pace: Pace,
): Promise<void> {
  const { pacer, heartbeatMs, stopping } = pace;
  const { batch, resolveOffset, heartbeat } = payload;
  // A handler that waits for its database must not lose its partitions meanwhile; what a heartbeat
  // has to say (the group rebalances) the awaited one below hears too.
  const beating = setInterval(() => void heartbeat().catch(() => undefined), heartbeatMs);
  try {
    for (let from = 0; from < batch.messages.length; from += handleMax) {
      const messages = batch.messages.slice(from, from + handleMax);
      const beginsAtMs = pacer.reserve(messages.length, performance.now());
      if (!(await untilDue(beginsAtMs, payload, pace))) return;
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

/** Waits for a batch's turn; answers false if the partition was lost or we stop. */
async function untilDue(
  beginsAtMs: number,
  { heartbeat, isRunning, isStale }: EachBatchPayload,
  { heartbeatMs, stopping }: Pace,
): Promise<boolean> {
  for (;;) {
    if (!isRunning() || isStale() || stopping.aborted) return false;
    const leftMs = beginsAtMs - performance.now();
    if (leftMs <= 0) return true;
    const stepMs = Math.min(leftMs, heartbeatMs / 2);
    await sleep(stepMs, undefined, { signal: stopping }).catch(() => undefined);
    // It throws when the group rebalances, so that nobody waits for us.
    if (!stopping.aborted) await heartbeat();
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
