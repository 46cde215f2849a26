import { Refusal } from './refusals.ts';

/** The limit is judged anew so often, by what has ended since. */
const windowMs = 200;
/** Fewer than this say nothing. */
const samplesMin = 10;
/** What this share of the window took at most is compared with the target. */
const judgedShare = 0.9;
/** The limit shrinks by as much as that is above the target, between these … */
const shrinkMin = 0.5;
const shrinkMax = 0.85;
/** … and grows by this, or faster while it is far below, at less than a quarter of it. */
const grow = 1.1;
const growFast = 1.3;
/** The limit grows only if it was nearly reached: otherwise nobody has tried whether more would go. */
const usedShareMin = 0.8;
/** Large entries hold so much of the limit at most, all together: the rest is for those of ordinary size. */
const largeShareMax = 0.25;
/** So many times the target is good enough while few are let in. */
const fewFactor = 3;

/** An entry of up to so many parts, such as the lines of an order, is an ordinary one. */
const ordinaryParts = 4;

/** What an entry costs by its parts, as a number of ordinary entries; 1 is an ordinary one. */
export function weightOf(parts: number): number {
  return parts <= ordinaryParts ? 1 : parts;
}

export interface AdmissionOptions {
  /** Milliseconds that most of what is let in should take. */
  readonly targetMs: number;
  /** Entries under way at most: at the start, and bounds that it never leaves. */
  readonly startLimit: number;
  readonly limitMin: number;
  readonly limitMax: number;
  /** Down to so many under way the target holds; below, several times of it. Default `limitMin`. */
  readonly few?: number;
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
 *
 * Large entries have a share of the limit that they do not exceed, so that they keep no others out. How
 * long they take says nothing about the load.
 *
 * A slow machine takes long for each even when nobody waits, and there fewer at once would not be faster,
 * only fewer. So the limit falls below `few` only if entries take several times the target.
 */
export class Admission {
  readonly #options: AdmissionOptions;
  readonly #nowMs: () => number;
  #limit: number;
  #ordinary = 0;
  #large = 0;
  /** What the large ones cost, as a number of ordinary ones. */
  #largeWeight = 0;
  #windowEndMs: number;
  #samples: number[] = [];
  #lost = 0;
  #loadMax = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#nowMs = options.monotonicMs ?? (() => performance.now());
    this.#limit = options.startLimit;
    this.#windowEndMs = this.#nowMs() + windowMs;
  }

  get limit(): number {
    return Math.round(this.#limit);
  }

  /** Entries under way, of any size. */
  get underWay(): number {
    return this.#ordinary + this.#large;
  }

  /** Whether so many entries that came together would be refused now. */
  refuses(entries: number): boolean {
    this.#judge();
    // Alone, any number may try: a batch that is larger than the limit could never come in.
    if (this.#load === 0 || this.#load + entries <= this.#limit) return false;
    this.#loadMax = Math.max(this.#loadMax, this.#limit);
    return true;
  }

  /**
   * Lets entries in that came together, all of them or none. Each is to be ended by `leave` or `lose`.
   *
   * @throws Refusal OVERLOADED
   */
  enter(entries: number): void {
    if (this.refuses(entries)) throw new Refusal('OVERLOADED');
    this.#ordinary += entries;
    this.#loadMax = Math.max(this.#loadMax, this.#load);
  }

  /**
   * Lets one large entry in, to be ended by `leaveLarge` with the same weight.
   *
   * @param weight what it costs, as a number of ordinary entries
   * @throws Refusal OVERLOADED if the share of the large ones is taken, or everything is
   */
  enterLarge(weight: number): void {
    const isShareTaken = this.#large > 0 && this.#largeWeight + weight > this.#largeMax;
    if (isShareTaken || this.refuses(1)) throw new Refusal('OVERLOADED');
    this.#large += 1;
    this.#largeWeight += weight;
    this.#loadMax = Math.max(this.#loadMax, this.#load);
  }

  leaveLarge(weight: number): void {
    this.#large -= 1;
    this.#largeWeight -= weight;
    this.#judge();
  }

  /** @param tookMs of an entry that was carried out; undefined for one that was not, such as one sold out */
  leave(tookMs: number | undefined): void {
    this.#ordinary -= 1;
    if (tookMs !== undefined) this.#samples.push(tookMs);
    this.#judge();
  }

  /**
   * Ends an entry that failed, or of which nobody knows what became. One locked row is enough for that,
   * so it says nothing about the others as long as those are carried out.
   */
  lose(): void {
    this.#ordinary -= 1;
    this.#lost += 1;
    this.#judge();
  }

  get #largeMax(): number {
    return this.#limit * largeShareMax;
  }

  /** What is compared with the limit. */
  get #load(): number {
    return this.#ordinary + Math.min(this.#largeWeight, this.#largeMax);
  }

  #judge(): void {
    const nowMs = this.#nowMs();
    if (nowMs < this.#windowEndMs) return;
    if (this.#samples.length >= samplesMin) this.#judgeWindow();
    else if (this.#lost >= samplesMin) this.#change(shrinkMax);
    this.#loadMax = this.#load;
    this.#windowEndMs = nowMs + windowMs;
    this.#options.onWindow?.(this.limit, this.underWay);
  }

  #judgeWindow(): void {
    const { targetMs, limitMin, few = limitMin } = this.#options;
    const sorted = this.#samples.toSorted((a, b) => a - b);
    const tookMs = sorted[Math.ceil(sorted.length * judgedShare) - 1] as number;
    const fewMs = targetMs * fewFactor;
    const boundMs = this.#limit > few ? targetMs : fewMs;
    if (tookMs > boundMs) {
      const factor = Math.min(shrinkMax, Math.max(shrinkMin, boundMs / tookMs));
      this.#change(factor, { min: tookMs > fewMs ? limitMin : few });
    } else if (this.#loadMax >= this.#limit * usedShareMin) {
      const factor = tookMs < boundMs / 4 ? growFast : grow;
      this.#change(factor, tookMs > targetMs ? { max: few } : {});
    } else this.#change(1);
  }

  /** Changes the limit, and begins to gather anew. Few samples are kept until they are enough. */
  #change(factor: number, bounds: { readonly min?: number; readonly max?: number } = {}): void {
    const { min = this.#options.limitMin, max = this.#options.limitMax } = bounds;
    this.#limit = Math.min(max, Math.max(min, this.#limit * factor));
    this.#samples = [];
    this.#lost = 0;
  }
}
