/** A provider that takes next to nothing is asked once a second. */
const perSecondMin = 1;
/** Of what the provider took in the last second, so much is offered after it has turned a call away. */
const ofTaken = 0.95;
/** A pace is lowered to this part of itself at most in one step: what was taken just now may not be all. */
const lowerMin = 0.5;
/** After it was lowered, a pace stays for so long … */
const holdMs = 5_000;
/** … and then rises by this part of itself in a second, and by more the longer nothing was turned away. */
const risePerSecond = 0.02;
const riseDoublesMs = 10_000;
/** Whatever a provider asks for, after a minute one call finds out whether it still says so. */
const pauseMsMax = 60_000;
/** What was taken is counted in slots of a tenth of a second: ten whole ones, and the one that is not over yet. */
const slotMs = 100;
const slots = 11;

/**
 * How fast a provider takes calls of one kind: as fast as is configured, until it turns calls away. Then a little less than
 * it takes, raised slowly again. Times are those of the monotonic clock, in milliseconds.
 */
export class ProviderPace {
  readonly #max: number;
  readonly #nowMs: () => number;
  #perSecond: number;
  #loweredAtMs = Number.NEGATIVE_INFINITY;
  #risenAtMs = 0;
  #pausedUntilMs = Number.NEGATIVE_INFINITY;
  readonly #taken = new Array<number>(slots).fill(0);
  #slot = 0;

  /** @param perSecondMax calls in a second at most, whatever the provider takes */
  constructor(perSecondMax: number, nowMs = (): number => performance.now()) {
    this.#max = perSecondMax;
    this.#perSecond = perSecondMax;
    this.#nowMs = nowMs;
  }

  /** Calls that may be sent in a second. */
  get perSecond(): number {
    this.#rise();
    return this.#perSecond;
  }

  /** For how long nothing is to be sent because the provider asked to wait, in milliseconds. */
  get pausedMs(): number {
    return Math.max(0, this.#pausedUntilMs - this.#nowMs());
  }

  /** The provider has taken a call, whatever came of it. */
  taken(): void {
    this.#turnSlots();
    this.#taken[this.#slot % slots] = (this.#taken[this.#slot % slots] ?? 0) + 1;
  }

  /**
   * The provider has turned a call away.
   *
   * @param sentAtMs when it was sent: those sent before the pace was lowered say nothing about the new one
   * @param retryAfterMs how long it asks to wait; 0 if it does not
   * @returns whether the pace was lowered
   */
  turnedAway(sentAtMs: number, retryAfterMs: number): boolean {
    const nowMs = this.#nowMs();
    const pausedUntilMs = nowMs + Math.min(retryAfterMs, pauseMsMax);
    if (retryAfterMs > 0) this.#pausedUntilMs = Math.max(this.#pausedUntilMs, pausedUntilMs);
    if (sentAtMs < this.#loweredAtMs) return false;
    this.#rise();
    const lowered = Math.max(
      this.#takenPerSecond() * ofTaken,
      this.#perSecond * lowerMin,
      perSecondMin,
    );
    this.#perSecond = Math.min(lowered, Math.max(perSecondMin, this.#perSecond * ofTaken));
    this.#loweredAtMs = nowMs;
    this.#risenAtMs = nowMs + holdMs;
    return true;
  }

  #rise(): void {
    const nowMs = this.#nowMs();
    if (this.#perSecond >= this.#max || nowMs <= this.#risenAtMs) return;
    const seconds = (nowMs - this.#risenAtMs) / 1_000;
    const sinceHoldMs = nowMs - this.#loweredAtMs - holdMs;
    const rise = risePerSecond * (1 + sinceHoldMs / riseDoublesMs) * seconds;
    this.#perSecond = Math.min(this.#max, this.#perSecond * Math.exp(rise));
    this.#risenAtMs = nowMs;
  }

  #takenPerSecond(): number {
    this.#turnSlots();
    const countedMs = (slots - 1) * slotMs + (this.#nowMs() % slotMs);
    const taken = this.#taken.reduce((sum, calls) => sum + calls, 0);
    return (taken * 1_000) / countedMs;
  }

  /** Empties the slots whose second is over. */
  #turnSlots(): void {
    const slot = Math.floor(this.#nowMs() / slotMs);
    const passed = Math.min(slots, slot - this.#slot);
    for (let back = 0; back < passed; back += 1) this.#taken[(slot - back) % slots] = 0;
    this.#slot = slot;
  }
}
