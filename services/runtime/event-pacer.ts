/** Spreads batches of events over time, so that a consumer leaves the machine to whoever cannot wait. */
export class EventPacer {
  readonly #msPerEvent: number;
  #freeAtMs = 0;

  /** @param eventsPerSecondMax undefined is no limit */
  constructor(eventsPerSecondMax: number | undefined) {
    this.#msPerEvent = eventsPerSecondMax === undefined ? 0 : 1_000 / eventsPerSecondMax;
  }

  /**
   * Takes the next place for a batch: the batch after it may begin when the time of its events has
   * passed since it began. Time that nobody used is not saved up.
   *
   * @param nowMs on any clock that never goes back
   * @returns when the batch may begin, on that clock
   */
  reserve(events: number, nowMs: number): number {
    const beginsAtMs = Math.max(nowMs, this.#freeAtMs);
    this.#freeAtMs = beginsAtMs + events * this.#msPerEvent;
    return beginsAtMs;
  }

  /** How long until a place is free, in milliseconds; 0 if one is. @param nowMs as for `reserve` */
  freeInMs(nowMs: number): number {
    return Math.max(0, this.#freeAtMs - nowMs);
  }
}
