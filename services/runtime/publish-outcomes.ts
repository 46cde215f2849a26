import type { EventMessage } from './event-publisher.ts';
import { Refusal } from './refusals.ts';
import { SomeFailed } from './some-failed.ts';

/** Publish it again: it may have come, and may come yet. */
export function notInTime(): Refusal {
  return new Refusal('OUTCOME_UNKNOWN', 'Kafka did not acknowledge in time');
}

/** A message with its place among those that are published together. */
export interface Addressed {
  readonly at: number;
  readonly message: EventMessage;
}

/** What became of each message; until it is acknowledged, it is not known to be published. */
export class Outcomes {
  readonly addressed: readonly Addressed[];
  readonly #failures: Map<number, Error>;
  #isOver = false;

  constructor(messages: readonly EventMessage[]) {
    const unknown = notInTime();
    this.addressed = messages.map((message, at) => ({ at, message }));
    this.#failures = new Map(messages.map((_, at) => [at, unknown]));
  }

  get someAcknowledged(): boolean {
    return this.#failures.size < this.addressed.length;
  }

  acknowledge(batch: readonly Addressed[]): void {
    if (!this.#isOver) for (const { at } of batch) this.#failures.delete(at);
  }

  fail(batch: readonly Addressed[], error: Error): void {
    if (!this.#isOver) for (const { at } of batch) this.#failures.set(at, error);
  }

  /** Nothing was sent of those that are not acknowledged. */
  failRest(error: Error): void {
    if (!this.#isOver) for (const at of this.#failures.keys()) this.#failures.set(at, error);
  }

  anyFailure(): Error | undefined {
    return this.#failures.values().next().value;
  }

  /** What `publish` throws, decided once: an answer that comes later changes nothing. */
  failure(): Error | undefined {
    this.#isOver = true;
    if (this.#failures.size === 0) return undefined;
    const different = new Set(this.#failures.values());
    const isWhole = this.#failures.size === this.addressed.length && different.size === 1;
    return isWhole ? this.anyFailure() : new SomeFailed(this.#failures);
  }
}
