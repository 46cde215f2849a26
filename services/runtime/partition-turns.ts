import { faultOfSend } from './record-refused.ts';
import { Refusal } from './refusals.ts';

/** A send that takes longer hangs: nobody else should wait behind it who need not. */
const slowMs = 2_000;
/** So long after a failure a partition counts as stuck; whoever may wait looks again earlier. */
const stuckMs = 5_000;

/** One send at a time for each partition of a topic, and which partitions take none. */
export class PartitionTurns {
  readonly #last = new Map<string, Promise<void>>();
  readonly #startedAtMs = new Map<string, number>();
  readonly #failedAtMs = new Map<string, number>();

  /** Starts `send` after the last of the same partition has ended, however it ended. @throws what it throws */
  async run(partition: string, send: () => Promise<void>): Promise<void> {
    const before = this.#last.get(partition) ?? Promise.resolve();
    const mine = before.then(
      () => this.#watched(partition, send),
      () => this.#watched(partition, send),
    );
    this.#last.set(partition, mine);
    try {
      await mine;
    } finally {
      if (this.#last.get(partition) === mine) this.#last.delete(partition);
    }
  }

  /** Whether the partition's send under way hangs, or its last one failed a moment ago. */
  isStuck(partition: string): boolean {
    const nowMs = performance.now();
    const startedAtMs = this.#startedAtMs.get(partition) ?? Number.POSITIVE_INFINITY;
    const failedAtMs = this.#failedAtMs.get(partition) ?? Number.NEGATIVE_INFINITY;
    return nowMs - startedAtMs > slowMs || nowMs - failedAtMs < stuckMs;
  }

  async #watched(partition: string, send: () => Promise<void>): Promise<void> {
    this.#startedAtMs.set(partition, performance.now());
    try {
      await send();
      this.#failedAtMs.delete(partition);
    } catch (error) {
      // What came too late to be sent, or is refused for itself, says nothing about the partition.
      const isStuck = !(error instanceof Refusal) && faultOfSend(error) === 'passing';
      if (isStuck) this.#failedAtMs.set(partition, performance.now());
      throw error;
    } finally {
      this.#startedAtMs.delete(partition);
    }
  }
}
