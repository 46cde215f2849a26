import { Refusal } from './refusals.ts';

/** The limit is judged anew so often, by what has ended since. */
const windowMs = 200;
/** Fewer than this say nothing. */
const samplesMin = 10;
/** The window is bad if more than this share of it took longer than the target. */
const slowShareMax = 0.1;
const shrink = 0.85;
const grow = 1.1;
/** The limit grows only if it was nearly reached: otherwise nobody has tried whether more would go. */
const usedShareMin = 0.8;

export interface AdmissionOptions {
  /** Milliseconds that most of what is let in should take. */
  readonly targetMs: number;
  /** Entries under way at most: at the start, and bounds that it never leaves. */
  readonly startLimit: number;
  readonly limitMin: number;
  readonly limitMax: number;
  /** Told the limit and the entries under way when they are judged. */
  readonly onWindow?: (limit: number, underWay: number) => void;
  /** Milliseconds that only go forward; default `performance.now`. */
  readonly monotonicMs?: () => number;
}

/**
 * The outermost door: lets so many entries in at once as the system carries out in time, and refuses
 * the others before anything is done for them. The limit follows what entries really take: it shrinks
 * while they take too long, and grows while they do not and the door was full. So an overload costs
 * refusals, and those who are let in do not wait behind a queue that nobody can work off.
 */
export class Admission {
  readonly #options: AdmissionOptions;
  readonly #nowMs: () => number;
  #limit: number;
  #underWay = 0;
  #windowEndMs: number;
  #samples: number[] = [];
  #underWayMax = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#nowMs = options.monotonicMs ?? (() => performance.now());
    this.#limit = options.startLimit;
    this.#windowEndMs = this.#nowMs() + windowMs;
  }

  get limit(): number {
    return Math.round(this.#limit);
  }

  get underWay(): number {
    return this.#underWay;
  }

  /**
   * Lets entries in that came together, all of them or none. Each is to be ended by `leave`.
   *
   * @throws Refusal OVERLOADED
   */
  enter(entries: number): void {
    this.#judge();
    // Alone, any number may try: a batch that is larger than the limit could never come in.
    if (this.#underWay > 0 && this.#underWay + entries > this.#limit) {
      this.#underWayMax = Math.max(this.#underWayMax, this.#limit);
      throw new Refusal('OVERLOADED');
    }
    this.#underWay += entries;
    this.#underWayMax = Math.max(this.#underWayMax, this.#underWay);
  }

  /** @param tookMs of an entry that was carried out; undefined for one that was not, such as one sold out */
  leave(tookMs: number | undefined): void {
    this.#underWay -= 1;
    if (tookMs !== undefined) this.#samples.push(tookMs);
    this.#judge();
  }

  #judge(): void {
    const nowMs = this.#nowMs();
    if (nowMs < this.#windowEndMs) return;
    const { limitMin, limitMax, onWindow } = this.#options;
    if (this.#samples.length >= samplesMin) {
      const isBad = this.#isBad();
      const wasFull = this.#underWayMax >= this.#limit * usedShareMin;
      if (isBad) this.#limit = Math.max(limitMin, this.#limit * shrink);
      else if (wasFull) this.#limit = Math.min(limitMax, this.#limit * grow);
      this.#samples = [];
    }
    this.#underWayMax = this.#underWay;
    this.#windowEndMs = nowMs + windowMs;
    onWindow?.(this.limit, this.#underWay);
  }

  #isBad(): boolean {
    const { targetMs } = this.#options;
    const slow = this.#samples.filter((tookMs) => tookMs > targetMs).length;
    return slow > this.#samples.length * slowShareMax;
  }
}
