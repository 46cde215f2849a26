import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from './log.ts';
import { type Loop, startLoop } from './loop.ts';
import { RecentAttempts } from './recent-attempts.ts';

export interface ClaimedWorkOptions<Item> {
  readonly name: string;
  /** Milliseconds between two looks while nothing is due. */
  readonly intervalMs: number;
  /** Items under way at once at most. */
  readonly slots: number;
  /** Items that are not counted because they take longer than a second, at most; default three times `slots`. */
  readonly slowMax?: number;
  /** Claims at most so many that are due, so that no other process takes them; committed when it answers. */
  readonly claim: (max: number) => Promise<readonly Item[]>;
  /** Carries one out, within a deadline of its own. What it throws is shown; the item comes again by its claim. */
  readonly run: (item: Item, signal: AbortSignal) => Promise<void>;
  /** Gives claims back that are not begun because the process stops; without it they run out by themselves. */
  readonly release?: (items: readonly Item[]) => Promise<void>;
  readonly log: Log;
}

/** An item that takes longer holds up nobody else. */
const slowAfterMs = 1_000;
/** For so long a slot that became free waits for others, so that one claim serves them together. */
const gatherMs = 20;
/** How often slots are looked at while none becomes free. */
const lookMs = 100;
/** A loop's round ends well after so long, also while there is always more to do: its age shows that it works. */
const roundMsMax = 1_000;

/**
 * Does claimed work, so many items at a time: a slot that becomes free takes the next item at once, and one that hangs
 * holds up only itself. The loop's age rises while attempts fail or hang and none succeeds.
 */
export function startClaimedWork<Item>(options: ClaimedWorkOptions<Item>): Loop {
  const { name, intervalMs, claim, release, log } = options;
  const slots = new Slots(options.slots, options.slowMax ?? 3 * options.slots);
  const attempts = new RecentAttempts();

  function begin(item: Item, signal: AbortSignal): void {
    slots.begin(async () => {
      try {
        await options.run(item, signal);
        attempts.succeeded();
      } catch (error) {
        attempts.failed(error);
      }
    });
  }

  const loop: Loop = startLoop({
    name,
    intervalMs,
    log,
    async run(signal) {
      const untilMs = performance.now() + roundMsMax;
      for (;;) {
        const free = await slots.untilFree(signal);
        if (signal.aborted) return;
        const items = await claim(free);
        // What was claimed while the process stops is somebody else's.
        if (signal.aborted && release !== undefined) await release(items);
        else for (const item of items) begin(item, signal);
        if (items.length < free || signal.aborted) break;
        if (performance.now() < untilMs) continue;
        loop.wake();
        break;
      }
      attempts.check(slots.oldestMs());
    },
  });
  return {
    wake: loop.wake,
    async stop() {
      await loop.stop();
      await slots.untilEmpty();
    },
  };
}

/** The items under way. */
class Slots {
  readonly #max: number;
  readonly #slowMax: number;
  readonly #underWay = new Map<Promise<void>, number>();

  constructor(max: number, slowMax: number) {
    this.#max = max;
    this.#slowMax = slowMax;
  }

  begin(work: () => Promise<void>): void {
    const one = work().finally(() => this.#underWay.delete(one));
    this.#underWay.set(one, performance.now());
  }

  /** How long the oldest is under way, in milliseconds; 0 if there is none. */
  oldestMs(): number {
    const [sinceMs] = this.#underWay.values();
    return sinceMs === undefined ? 0 : performance.now() - sinceMs;
  }

  /** How many are free, once it is at least one. */
  async untilFree(signal: AbortSignal): Promise<number> {
    const wanted = Math.ceil(this.#max / 4);
    let freeSinceMs: number | undefined;
    while (!signal.aborted) {
      const free = this.#free();
      if (free > 0) freeSinceMs ??= performance.now();
      const gathered = performance.now() - (freeSinceMs ?? performance.now()) >= gatherMs;
      if (free >= wanted || (free > 0 && gathered)) return free;
      const look = new AbortController();
      const rest = sleep(free > 0 ? gatherMs : lookMs, undefined, { signal: look.signal });
      await Promise.race([...this.#underWay.keys(), rest.catch(() => undefined)]);
      look.abort();
    }
    return 0;
  }

  async untilEmpty(): Promise<void> {
    await Promise.all(this.#underWay.keys());
  }

  #free(): number {
    const nowMs = performance.now();
    let slow = 0;
    for (const sinceMs of this.#underWay.values()) if (nowMs - sinceMs > slowAfterMs) slow += 1;
    return this.#max - (this.#underWay.size - Math.min(slow, this.#slowMax));
  }
}
