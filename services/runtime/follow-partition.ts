import { setTimeout as sleep } from 'node:timers/promises';
import type { KafkaMessage } from 'kafkajs';
import { blameOf } from './blame.ts';
import { type Burial, buryMessages } from './bury-messages.ts';
import { isMeantFor } from './dead-letters.ts';
import type { EventConsumerOptions } from './event-consumer.ts';
import { EventTroubles } from './event-troubles.ts';
import type { ApartBounds, HandleApart } from './handle-apart.ts';

const bounds: ApartBounds = { wholeMs: 10_000, partMs: 3_000, searchMs: 5_000 };
const awayFirstMs = 100;
const awayLastMs = 5_000;
/** Rest of a partition in which something is left over: what comes behind that is fetched after it. */
const leftoverRestMs = 250;
/** How long a round waits for Kafka to take its dead letters; they may come later. */
const burialPatienceMs = 1_000;
const burialRestMs = 5_000;

/** An event that could be read, with its message. */
export interface ReadEvent<Event> {
  /** Names the message also when a topic that was created anew has its offset again. */
  readonly id: string;
  readonly message: KafkaMessage;
  readonly partition: number;
  readonly event: Event;
}

/** What all partitions of a consumer share. */
export interface Shared<Event> {
  readonly apart: HandleApart<ReadEvent<Event>>;
  /** Events that took effect so far. */
  successes: number;
}

/**
 * Handles the messages of one partition, whatever order that takes: what cannot take effect now is
 * tried again while those behind it go on, and what never will is kept as a dead letter. It remembers
 * what is done behind a message that is not.
 */
export class FollowPartition<Event> {
  readonly #options: EventConsumerOptions<Event>;
  readonly #partition: number;
  readonly #shared: Shared<Event>;
  readonly #done = new Set<string>();
  readonly #troubles = new EventTroubles();
  readonly #burials = new Map<string, Burial>();
  #awayMs = 0;
  #burying: Promise<void> | undefined;
  #buriesAtMs = 0;

  constructor(options: EventConsumerOptions<Event>, partition: number, shared: Shared<Event>) {
    this.#options = options;
    this.#partition = partition;
    this.#shared = shared;
  }

  /** Events that fail and are tried again, and messages that wait to be written as dead letters. */
  get waiting(): { readonly failing: number; readonly unburied: number } {
    return { failing: this.#troubles.size, unburied: this.#burials.size };
  }

  /** Whether the database served nobody in the last round. */
  get isAway(): boolean {
    return this.#awayMs > 0;
  }

  /** Tries each of the messages that is not done once. @throws Error only where a test breaks it */
  async round(messages: readonly KafkaMessage[]): Promise<void> {
    const readable = this.#read(messages);
    const nowMs = performance.now();
    const fresh = readable.filter(({ id }) => !this.#troubles.has(id));
    const due = readable.filter(({ id }) => this.#troubles.isDue(id, nowMs));
    const isServed = (await this.#handle(fresh)) && (await this.#handle(due));
    this.#awayMs = isServed ? 0 : longer(this.#awayMs);
    if (this.#burials.size > 0) await this.#buryForAMoment();
  }

  /** How many of the messages are done before the first that is not. */
  doneInFront(messages: readonly KafkaMessage[]): number {
    const open = messages.findIndex((message) => !this.#done.has(idOf(message)));
    return open < 0 ? messages.length : open;
  }

  /** Forgets messages whose offset is behind the consumer. */
  release(messages: readonly KafkaMessage[]): void {
    for (const message of messages) this.#done.delete(idOf(message));
  }

  /** How long to wait before the next round, in milliseconds. */
  restMs(): number {
    return this.isAway ? this.#awayMs : leftoverRestMs;
  }

  /** The messages that are not done and can be read; a replayed letter is meant for one group alone. */
  #read(messages: readonly KafkaMessage[]): ReadEvent<Event>[] {
    const { decode, groupId } = this.#options;
    const partition = this.#partition;
    const readable: ReadEvent<Event>[] = [];
    for (const message of messages) {
      const id = idOf(message);
      if (this.#done.has(id) || this.#burials.has(id)) continue;
      if (!isMeantFor(message, groupId)) {
        this.#done.add(id);
        continue;
      }
      try {
        const event = decode(message.value ?? new Uint8Array());
        readable.push({ id, message, partition, event });
      } catch (error) {
        this.#burials.set(id, { message, partition, error });
      }
    }
    return readable;
  }

  /** Answers whether the database serves anybody. */
  async #handle(events: readonly ReadEvent<Event>[]): Promise<boolean> {
    const { log, topic, groupId } = this.#options;
    const shared = this.#shared;
    const before = shared.successes;
    const { failed, untried, away } = await shared.apart.handle(events, bounds);
    const left = new Set([...failed.keys(), ...untried]);
    for (const event of events) if (!left.has(event)) this.#finish(event.id);
    shared.successes += events.length - left.size;
    if (away !== undefined) log.warn({ err: away, topic, groupId }, 'events will be handled again');
    let serves: Promise<boolean> | undefined;
    for (const [event, error] of failed) {
      const since = this.#troubles.successesOf(event.id) ?? before;
      const looksElsewhere = blameOf(error) !== 'entry' && shared.successes <= since;
      if (looksElsewhere) serves ??= shared.apart.servesOthers(error, bounds);
      this.#note(event, error, looksElsewhere ? await (serves as Promise<boolean>) : true);
    }
    return away === undefined;
  }

  /** @param besideOthers whether other events took effect while this one failed */
  #note({ id, message }: ReadEvent<Event>, error: unknown, besideOthers: boolean): void {
    const { log, topic, groupId } = this.#options;
    const partition = this.#partition;
    const isNew = !this.#troubles.has(id);
    const { successes } = this.#shared;
    const isAside =
      blameOf(error) === 'entry' ||
      this.#troubles.note(id, besideOthers, successes, performance.now());
    if (isAside) {
      this.#troubles.forget(id);
      this.#burials.set(id, { message, partition, error });
    } else if (isNew) {
      const { offset } = message;
      log.warn({ err: error, topic, groupId, partition, offset }, 'an event is tried again');
    }
  }

  /** What is behind the messages that are to be buried need not wait for Kafka to take them. */
  async #buryForAMoment(): Promise<void> {
    if (this.#burying === undefined && performance.now() < this.#buriesAtMs) return;
    this.#burying ??= this.#bury().finally(() => {
      this.#burying = undefined;
    });
    const over = new AbortController();
    const moment = sleep(burialPatienceMs, undefined, { signal: over.signal });
    await Promise.race([this.#burying, moment.catch(() => undefined)]);
    over.abort();
  }

  /** While Kafka does not take the letters, their messages are not done, so that none is lost. */
  async #bury(): Promise<void> {
    const { log, topic, groupId } = this.#options;
    const burials = [...this.#burials];
    try {
      const letters = burials.map(([, burial]) => burial);
      await buryMessages(this.#options, letters);
    } catch (error) {
      const fields = { err: error, topic, groupId, partition: this.#partition };
      log.error({ ...fields, letters: burials.length }, 'dead letters cannot be written and wait');
      this.#buriesAtMs = performance.now() + burialRestMs;
      return;
    }
    for (const [id] of burials) {
      this.#burials.delete(id);
      this.#finish(id);
    }
  }

  #finish(id: string): void {
    this.#troubles.forget(id);
    this.#done.add(id);
  }
}

function idOf({ offset, timestamp }: KafkaMessage): string {
  return `${offset}:${timestamp}`;
}

function longer(restMs: number): number {
  return Math.min(Math.max(restMs * 2, awayFirstMs), awayLastMs);
}
