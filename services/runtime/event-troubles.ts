/** How long an event that fails by itself is tried again before it is set aside. */
export const patienceMs = 6_000;
/** How often it must have failed while others succeeded: once may be the database's moment. */
const triesMin = 3;
const againFirstMs = 500;
const againLastMs = 2_000;

interface Trouble {
  readonly sinceMs: number;
  /** Failures while others succeeded. */
  tries: number;
  againMs: number;
  dueAtMs: number;
  /** How many events of the consumer had succeeded when it failed last. */
  successes: number;
}

/**
 * Events of one partition that failed by themselves, for a reason that may pass: a lock, an answer
 * that came too late, an error that we do not know. Each is tried again for a while, and only what
 * fails while others succeed is at fault itself: a database that is away sets nothing aside.
 */
export class EventTroubles {
  readonly #troubles = new Map<string, Trouble>();

  get size(): number {
    return this.#troubles.size;
  }

  has(id: string): boolean {
    return this.#troubles.has(id);
  }

  /** Whether an event that failed is to be tried again now. */
  isDue(id: string, nowMs: number): boolean {
    const trouble = this.#troubles.get(id);
    return trouble !== undefined && trouble.dueAtMs <= nowMs;
  }

  /** How many events of the consumer had succeeded when an event failed last. */
  successesOf(id: string): number | undefined {
    return this.#troubles.get(id)?.successes;
  }

  /**
   * Notes that an event failed by itself.
   *
   * @param besideOthers whether others succeeded meanwhile
   * @param successes how many events of the consumer have succeeded so far
   * @returns whether it is to be set aside
   */
  note(id: string, besideOthers: boolean, successes: number, nowMs: number): boolean {
    const trouble = this.#troubles.get(id);
    const sinceMs = trouble?.sinceMs ?? nowMs;
    const againMs = trouble ? Math.min(trouble.againMs * 2, againLastMs) : againFirstMs;
    const tries = (trouble?.tries ?? 0) + (besideOthers ? 1 : 0);
    this.#troubles.set(id, { sinceMs, tries, againMs, dueAtMs: nowMs + againMs, successes });
    return tries >= triesMin && nowMs - sinceMs >= patienceMs;
  }

  forget(id: string): void {
    this.#troubles.delete(id);
  }
}
