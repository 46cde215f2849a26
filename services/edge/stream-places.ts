import { Refusal } from '../runtime/refusals.ts';

/** A browser with some tabs needs a few; more are a mistake or an attack. */
export const streamsPerUserMax = 10;
/** A place is free again when somebody leaves, which a client cannot know. */
const retryAfterMs = 5_000;

/** One open stream. */
export interface StreamPlace {
  /** Aborted when the client goes or the server stops. */
  readonly signal: AbortSignal;
  /** Gives the place back; more than once does no harm. */
  leave(): void;
}

/** The streams that are open, bounded for the process and for each user. */
export class StreamPlaces {
  readonly #streamsMax: number;
  readonly #open = new Set<AbortController>();
  readonly #openOfUser = new Map<bigint, number>();
  #stopped = false;

  /** @param streamsMax of all users together */
  constructor(streamsMax: number) {
    this.#streamsMax = streamsMax;
  }

  get size(): number {
    return this.#open.size;
  }

  /** @throws Refusal RATE_LIMITED if there is no place, OVERLOADED if the server stops */
  take(userId: bigint): StreamPlace {
    if (this.#stopped) throw new Refusal('OVERLOADED');
    const ofUser = this.#openOfUser.get(userId) ?? 0;
    if (ofUser >= streamsPerUserMax) {
      const message = `A user may have ${streamsPerUserMax} streams open`;
      throw new Refusal('RATE_LIMITED', message, { retryAfterMs });
    }
    if (this.#open.size >= this.#streamsMax) {
      throw new Refusal('RATE_LIMITED', 'Too many streams are open', { retryAfterMs });
    }
    const controller = new AbortController();
    this.#open.add(controller);
    this.#openOfUser.set(userId, ofUser + 1);
    return {
      signal: controller.signal,
      leave: () => {
        if (!this.#open.delete(controller)) return;
        const left = (this.#openOfUser.get(userId) ?? 1) - 1;
        if (left === 0) this.#openOfUser.delete(userId);
        else this.#openOfUser.set(userId, left);
        controller.abort();
      },
    };
  }

  /** Ends every stream and lets nobody in any more. */
  stop(): void {
    this.#stopped = true;
    for (const controller of this.#open) controller.abort();
  }
}
