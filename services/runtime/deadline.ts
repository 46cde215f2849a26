/**
 * The moment by which an answer is wanted, on the monotonic clock, so that a step of the host's
 * clock neither shortens nor lengthens it. A budget only ever shrinks on its way from hop to hop.
 */
export class Deadline {
  readonly #atMs: number;

  private constructor(atMs: number) {
    this.#atMs = atMs;
  }

  /** A deadline `ms` milliseconds from now. */
  static after(ms: number): Deadline {
    return new Deadline(performance.now() + ms);
  }

  /** The latest of several deadlines: a batch is worth finishing while one caller still waits. */
  static latest(deadlines: Iterable<Deadline>): Deadline {
    let atMs = Number.NEGATIVE_INFINITY;
    for (const deadline of deadlines) atMs = Math.max(atMs, deadline.#atMs);
    return new Deadline(atMs);
  }

  /** Milliseconds left; negative once it has passed. */
  leftMs(): number {
    return this.#atMs - performance.now();
  }

  get passed(): boolean {
    return performance.now() >= this.#atMs;
  }

  /** This deadline, or `ms` milliseconds from now if that is sooner. */
  min(ms: number): Deadline {
    const atMs = performance.now() + ms;
    return atMs < this.#atMs ? new Deadline(atMs) : this;
  }

  /** Milliseconds on the monotonic clock (`performance.now()`), for comparing with one clock read. */
  get atMs(): number {
    return this.#atMs;
  }
}
