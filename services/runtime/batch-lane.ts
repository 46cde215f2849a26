import type { Deadline } from './deadline.ts';

/** A batch that takes longer holds up nobody who waits behind it. */
const patienceMs = 100;
/** Weight of the newest batch in the running mean of what batches take. */
const newestWeight = 0.2;

/** An entry on its way, with whoever waits for its answer. */
export interface Waiting<In, Out> {
  readonly entry: In;
  readonly bytes: number;
  readonly deadline: Deadline;
  readonly sinceMs: number;
  readonly resolve: (out: Out) => void;
  readonly reject: (error: Error) => void;
  /** Whether it was answered; what comes later is of no interest. */
  answered: boolean;
}

/** Entries that went together, and when. */
export interface UnderWay<In, Out> {
  readonly entries: readonly Waiting<In, Out>[];
  readonly sinceMs: number;
}

/** The bounds of a lane; see `BatcherOptions`. */
export interface LaneBounds {
  readonly entriesMax: number;
  readonly bytesMax: number;
  readonly inFlightMax: number;
  readonly besideMin: number;
  readonly slowAfterMs: number;
  readonly slowMax: number;
  readonly newestFirstAfterMs: number;
}

/** What waits for one key, and the batches of it that are under way. */
export class BatchLane<In, Out> {
  readonly key: string | number | bigint;
  readonly queue: Waiting<In, Out>[] = [];
  readonly underWay = new Set<UnderWay<In, Out>>();
  readonly #bounds: LaneBounds;
  scheduled = false;
  /** Running mean of what a batch takes, in milliseconds; 0 before the first has ended. */
  #batchMs = 0;
  /** When the youngest batch that was carried out began: one that hangs since before hangs by itself. */
  #workedSinceMs = 0;

  constructor(key: string | number | bigint, bounds: LaneBounds) {
    this.key = key;
    this.#bounds = bounds;
  }

  get idle(): boolean {
    return this.queue.length === 0 && this.underWay.size === 0 && !this.scheduled;
  }

  /** Whether the next batch may go now. One that is under way for long no longer keeps it waiting. */
  mayGo(nowMs: number): boolean {
    const { inFlightMax, besideMin, slowAfterMs, slowMax } = this.#bounds;
    let slow = 0;
    for (const { sinceMs } of this.underWay) if (nowMs - sinceMs >= slowAfterMs) slow += 1;
    const counted = this.underWay.size - Math.min(slow, slowMax);
    if (counted === 0) return true;
    if (counted >= inFlightMax) return false;
    return this.queue.length >= besideMin || (this.queue[0]?.sinceMs ?? 0) <= nowMs - patienceMs;
  }

  /**
   * Takes the next batch out of the queue: the oldest entries, or the newest once the oldest has
   * waited too long to be worth it. Entries with no more time than `needMs` are given to `drop`.
   */
  take(
    nowMs: number,
    needMs: number,
    drop: (waiting: Waiting<In, Out>) => void,
  ): Waiting<In, Out>[] {
    const { entriesMax, bytesMax, newestFirstAfterMs } = this.#bounds;
    const newestFirst = nowMs - (this.queue[0]?.sinceMs ?? nowMs) > newestFirstAfterMs;
    const batch: Waiting<In, Out>[] = [];
    let bytes = 0;
    let taken = 0;
    const { length } = this.queue;
    for (; taken < length && batch.length < entriesMax; taken += 1) {
      const at = newestFirst ? length - 1 - taken : taken;
      const waiting = this.queue[at] as Waiting<In, Out>;
      if (waiting.deadline.atMs - needMs <= nowMs) {
        drop(waiting);
        continue;
      }
      if (batch.length > 0 && bytes + waiting.bytes > bytesMax) break;
      bytes += waiting.bytes;
      batch.push(waiting);
    }
    this.queue.splice(newestFirst ? length - taken : 0, taken);
    return newestFirst ? batch.reverse() : batch;
  }

  /** Takes those out of the queue whose time is over, or who have waited for `ageMaxMs`. */
  takeExpired(nowMs: number, ageMaxMs: number): Waiting<In, Out>[] {
    const isOver = ({ deadline, sinceMs }: Waiting<In, Out>): boolean =>
      deadline.atMs <= nowMs || nowMs - sinceMs > ageMaxMs;
    if (!this.queue.some(isOver)) return [];
    const expired = this.queue.filter(isOver);
    const left = this.queue.filter((waiting) => !isOver(waiting));
    this.queue.splice(0, this.queue.length, ...left);
    return expired;
  }

  begin(entries: readonly Waiting<In, Out>[], nowMs: number): UnderWay<In, Out> {
    const batch = { entries, sinceMs: nowMs };
    this.underWay.add(batch);
    return batch;
  }

  /** @param worked whether any of its entries was carried out */
  end(batch: UnderWay<In, Out>, nowMs: number, worked: boolean): void {
    this.underWay.delete(batch);
    if (batch.sinceMs < this.#workedSinceMs) return;
    if (worked) this.#workedSinceMs = batch.sinceMs;
    const tookMs = nowMs - batch.sinceMs;
    this.#batchMs += (tookMs - this.#batchMs) * (this.#batchMs === 0 ? 1 : newestWeight);
  }

  /**
   * How long an entry that is added now will probably take, its wait included; 0 if nobody knows. A batch
   * that hangs tells of those to come only as long as none that began after it was carried out.
   */
  expectedMs(nowMs: number): number {
    const { entriesMax, inFlightMax } = this.#bounds;
    let batchMs = this.#batchMs;
    let underWay = 0;
    for (const { sinceMs } of this.underWay) {
      if (sinceMs < this.#workedSinceMs) continue;
      underWay += 1;
      batchMs = Math.max(batchMs, nowMs - sinceMs);
    }
    const ahead = Math.ceil(this.queue.length / entriesMax) + underWay;
    return batchMs * (1 + Math.max(0, ahead - inFlightMax + 1) / inFlightMax);
  }
}
