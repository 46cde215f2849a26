import { setTimeout as sleep } from 'node:timers/promises';
import type { EachBatchPayload, KafkaMessage } from 'kafkajs';
import type { EventConsumerOptions } from './event-consumer.ts';
import type { EventPacer } from './event-pacer.ts';
import { failpoints } from './failpoints.ts';
import { FollowPartition, type Shared } from './follow-partition.ts';
import { HandleApart } from './handle-apart.ts';

/** Messages given to one call of the handler at most. */
const handleMax = 500;
/** kafkajs fetches nothing more, of any partition, until all that it fetched is handled, so it is kept no longer. */
const patienceMs = 500;
const brokenRestMs = 500;

/**
 * Handles what the fetches of a consumer bring, each partition by itself: one that takes longer is
 * paused and goes on beside the others, and its offsets are committed when its effects are there.
 */
export class ConsumeBatches<Event> {
  readonly #options: EventConsumerOptions<Event>;
  readonly #pacer: EventPacer;
  readonly #stopping: AbortSignal;
  readonly #shared: Shared<Event>;
  readonly #partitions = new Map<number, FollowPartition<Event>>();
  /** Offsets up to which the pace was kept, by partition. */
  readonly #paced = new Map<number, bigint>();
  readonly #underWay = new Map<number, Promise<void>>();
  #assignment = new AbortController();

  constructor(options: EventConsumerOptions<Event>, pacer: EventPacer, stopping: AbortSignal) {
    this.#options = options;
    this.#pacer = pacer;
    this.#stopping = stopping;
    const { groupId: group } = options;
    this.#shared = {
      successes: 0,
      apart: new HandleApart(async (events, deadline) => {
        await hit('consumer.before_handle', { group, partition: events[0]?.partition });
        await options.handle(
          events.map(({ event }) => event),
          deadline,
        );
      }),
    };
  }

  /** Carries out what a fetch brought of one partition; not all of it may be done when it answers. */
  async eachBatch(payload: EachBatchPayload): Promise<void> {
    const { partition } = payload.batch;
    const { signal } = this.#assignment;
    // What was under way when the partitions were given out anew ends first.
    const earlier = this.#underWay.get(partition);
    const work = earlier ? earlier.then(() => 0) : this.#work(payload, signal);
    const patience = new AbortController();
    const restMs = await Promise.race([
      work,
      sleep(patienceMs, undefined, { signal: patience.signal }).catch(() => undefined),
    ]);
    patience.abort();
    if (restMs === 0) return;
    const later = this.#goOn(payload, work, signal).finally(() => {
      if (this.#underWay.get(partition) === later) this.#underWay.delete(partition);
    });
    if (!earlier) this.#underWay.set(partition, later);
  }

  /** Keeps a partition paused until its work is done and it has rested. Never throws. */
  async #goOn(
    payload: EachBatchPayload,
    work: Promise<number>,
    signal: AbortSignal,
  ): Promise<void> {
    const resume = payload.pause();
    try {
      await rest(await work, AbortSignal.any([signal, this.#stopping]));
      if (!signal.aborted) await payload.commitOffsetsIfNecessary(payload.uncommittedOffsets());
    } catch (error) {
      const { partition } = payload.batch;
      // They are committed with the next ones; until then what is done may come again.
      this.#options.log.debug({ err: error, partition }, 'offsets are not committed yet');
    } finally {
      resume();
    }
  }

  /** The partitions are given out anew: what is under way stops after its step, and resolves nothing. */
  forget(): void {
    this.#assignment.abort();
    this.#assignment = new AbortController();
    this.#partitions.clear();
    this.#paced.clear();
    this.#show();
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#underWay.values());
  }

  /** Answers how long to rest before the partition is fetched again; 0 if all is done. Never throws. */
  async #work(payload: EachBatchPayload, signal: AbortSignal): Promise<number> {
    const { groupId, log } = this.#options;
    try {
      return await this.#handleAll(payload, signal);
    } catch (error) {
      const { partition } = payload.batch;
      log.warn({ err: error, groupId, partition }, 'messages will be handled again');
      return brokenRestMs;
    } finally {
      this.#show();
    }
  }

  async #handleAll(payload: EachBatchPayload, signal: AbortSignal): Promise<number> {
    const { batch, resolveOffset, isRunning, isStale } = payload;
    const partition = this.#partitionOf(batch.partition);
    const isOver = (): boolean =>
      signal.aborted || this.#stopping.aborted || !isRunning() || isStale();
    let isAllDone = true;
    for (let from = 0; from < batch.messages.length; from += handleMax) {
      const messages = batch.messages.slice(from, from + handleMax);
      await this.#untilDue(batch.partition, messages, signal);
      if (isOver()) return 0;
      await partition.round(messages);
      const { groupId: group } = this.#options;
      await hit('consumer.after_handle', { group, partition: batch.partition });
      if (isOver()) return 0;
      const done = isAllDone ? partition.doneInFront(messages) : 0;
      if (done > 0) {
        resolveOffset((messages[done - 1] as KafkaMessage).offset);
        partition.release(messages.slice(0, done));
      }
      if (done < messages.length) isAllDone = false;
      if (partition.isAway) break;
    }
    return isAllDone ? 0 : partition.restMs();
  }

  /** Waits for the turn of those messages that have not had theirs. */
  async #untilDue(
    partition: number,
    messages: readonly KafkaMessage[],
    signal: AbortSignal,
  ): Promise<void> {
    const paced = this.#paced.get(partition) ?? -1n;
    const fresh = messages.filter(({ offset }) => BigInt(offset) > paced);
    const last = fresh.at(-1);
    if (last === undefined) return;
    this.#paced.set(partition, BigInt(last.offset));
    const beginsAtMs = this.#pacer.reserve(fresh.length, performance.now());
    await rest(beginsAtMs - performance.now(), AbortSignal.any([signal, this.#stopping]));
  }

  #partitionOf(partition: number): FollowPartition<Event> {
    const known = this.#partitions.get(partition);
    if (known !== undefined) return known;
    const fresh = new FollowPartition(this.#options, partition, this.#shared);
    this.#partitions.set(partition, fresh);
    return fresh;
  }

  #show(): void {
    const { groupId: group, metrics } = this.#options;
    if (metrics === undefined) return;
    const waiting = [...this.#partitions.values()].map((partition) => partition.waiting);
    const sum = (of: 'failing' | 'unburied'): number =>
      waiting.reduce((total, each) => total + each[of], 0);
    metrics.failing.set({ group }, sum('failing'));
    metrics.unburied.set({ group }, sum('unburied'));
  }
}

async function rest(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await sleep(ms, undefined, { signal }).catch(() => undefined);
}

async function hit(name: string, info: Readonly<Record<string, unknown>>): Promise<void> {
  if (failpoints.on) await failpoints.hit(name, info);
}
