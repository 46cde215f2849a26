import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { ProviderPace } from './provider-pace.ts';

/** The right to make one call. */
export interface Place {
  /** The call is sent: its part of the pace is used. */
  use(): void;
  /** To be called when the call is over, or was not made after all; again it does nothing. */
  leave(): void;
}

export interface CallPlacesOptions {
  readonly pace: ProviderPace;
  /** Calls at once at most. One that hangs does not count after a second, up to three times as many. */
  readonly inFlightMax: number;
  /** How long a caller waits for a place at most, in milliseconds. */
  readonly waitMsMax: number;
}

/** A call that takes longer holds up nobody else … */
const slowAfterMs = 1_000;
/** … until there are so many of them for each place. */
const slowMaxPerPlace = 3;
/** So much of a second's calls may go at once. */
const burstSeconds = 0.1;
/** How often those who wait are looked at. */
const lookMs = 10;
const retryAfterMsMin = 1_000;

interface Waiting {
  readonly sinceMs: number;
  readonly deadline: Deadline;
  readonly resolve: (place: Place) => void;
  readonly reject: (refusal: Refusal) => void;
}

/**
 * Places for calls of one kind: a bounded number at once, and no more in a second than the provider takes. Who cannot have
 * one soon is refused at once with the time after which it may help to come again, instead of waiting until it is late.
 */
export class CallPlaces {
  readonly #options: CallPlacesOptions;
  readonly #queue: Waiting[] = [];
  /** The calls under way, with when each began. */
  readonly #underWay = new Map<Place, number>();
  #tokens: number;
  #filledAtMs = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: CallPlacesOptions) {
    this.#options = options;
    this.#tokens = this.#burst();
  }

  /** @throws Refusal OVERLOADED if there is no place within `waitMsMax` or the deadline */
  take(deadline: Deadline): Promise<Place> {
    const { pace, waitMsMax } = this.#options;
    const served = Math.max(1, (pace.perSecond * waitMsMax) / 1_000);
    if (this.#closed || pace.pausedMs > waitMsMax || this.#queue.length >= served) {
      return Promise.reject(this.#noPlace());
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ sinceMs: performance.now(), deadline, resolve, reject });
      this.#look();
    });
  }

  /** Refuses those who wait, and everybody who comes. */
  close(): void {
    this.#closed = true;
    this.#look();
  }

  #look(): void {
    const nowMs = performance.now();
    this.#refuse(({ deadline }) => this.#closed || deadline.passed);
    while (this.#queue.length > 0 && this.#mayGo(nowMs)) this.#give(nowMs);
    this.#refuse(({ sinceMs }) => nowMs - sinceMs > this.#options.waitMsMax);
    if (this.#queue.length > 0) this.#timer ??= setInterval(() => this.#look(), lookMs);
    else {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }

  #refuse(isOver: (waiting: Waiting) => boolean): void {
    for (let at = this.#queue.length - 1; at >= 0; at -= 1) {
      const waiting = this.#queue[at] as Waiting;
      if (!isOver(waiting)) continue;
      this.#queue.splice(at, 1);
      waiting.reject(this.#noPlace());
    }
  }

  #mayGo(nowMs: number): boolean {
    const { pace, inFlightMax } = this.#options;
    const added = ((nowMs - this.#filledAtMs) / 1_000) * pace.perSecond;
    this.#tokens = Math.min(this.#burst(), this.#tokens + added);
    this.#filledAtMs = nowMs;
    if (this.#tokens < 1 || pace.pausedMs > 0) return false;
    let slow = 0;
    for (const sinceMs of this.#underWay.values()) if (nowMs - sinceMs > slowAfterMs) slow += 1;
    return this.#underWay.size - Math.min(slow, slowMaxPerPlace * inFlightMax) < inFlightMax;
  }

  #give(nowMs: number): void {
    this.#tokens -= 1;
    let isUsed = false;
    const place: Place = {
      use: () => {
        isUsed = true;
      },
      leave: () => {
        if (!this.#underWay.delete(place)) return;
        if (!isUsed) this.#tokens = Math.min(this.#burst(), this.#tokens + 1);
        this.#look();
      },
    };
    this.#underWay.set(place, nowMs);
    this.#queue.shift()?.resolve(place);
  }

  #burst(): number {
    return Math.max(1, this.#options.pace.perSecond * burstSeconds);
  }

  #noPlace(): Refusal {
    const retryAfterMs = Math.max(retryAfterMsMin, this.#options.pace.pausedMs);
    const text = 'The payment provider takes no more of these calls now';
    return new Refusal('OVERLOADED', text, { retryAfterMs });
  }
}
