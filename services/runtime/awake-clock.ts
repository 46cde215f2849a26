/** A look that comes later than this many intervals after the one before it was kept waiting. */
const lateIntervals = 2;

/**
 * A clock for whoever looks at regular intervals at what others owe. Time in which this process stood
 * still does not count: what came meanwhile has not been read yet, and its sender is not to blame.
 */
export class AwakeClock {
  readonly #everyMs: number;
  #lastMs = performance.now();
  #asleepMs = 0;

  /** @param everyMs how often `tick` is called, in milliseconds */
  constructor(everyMs: number) {
    this.#everyMs = everyMs;
  }

  /** To be called at every look. @returns milliseconds on this clock */
  tick(): number {
    const nowMs = performance.now();
    const lateMs = nowMs - this.#lastMs - lateIntervals * this.#everyMs;
    if (lateMs > 0) this.#asleepMs += lateMs;
    this.#lastMs = nowMs;
    return nowMs - this.#asleepMs;
  }

  /** Milliseconds on this clock; a pause since the last look is still counted. */
  now(): number {
    return performance.now() - this.#asleepMs;
  }
}
