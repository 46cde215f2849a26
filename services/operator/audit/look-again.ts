import { setTimeout as sleep } from 'node:timers/promises';
import type { OrderPicture } from './order-picture.ts';
import type { Clock, Flaw, PromiseId } from './promise.ts';

/** Orders that wait for another look; more make the audit wait for them. */
const waitingMax = 10_000;
/** So many are looked at again at once. */
const batch = 500;
const pauseMs = 250;
/** An order changes a dozen times in its life; whoever changes for longer than this is reported as it is. */
const patienceSeconds = 60;

export interface FoundFlaw extends Flaw {
  readonly promise: PromiseId;
}

export interface LookAgainOptions {
  readonly graceSeconds: number;
  /** Reads some orders anew. */
  readonly read: (orderIds: readonly string[]) => Promise<Map<string, OrderPicture>>;
  readonly readClock: () => Promise<Clock>;
  readonly look: (picture: OrderPicture, clock: Clock) => FoundFlaw[];
  /** Is told of flaws that stay. */
  readonly confirm: (flaws: readonly FoundFlaw[]) => void;
}

/**
 * Keeps the orders at which something was wrong, and looks at each again until it agrees. The stores are read one after
 * the other while the system works, so an order that was just changing looks wrong without being so. A flaw counts when two
 * looks in a row saw the very same rows and none of them has changed within the grace.
 */
export class LookAgain {
  readonly #options: LookAgainOptions;
  /** The rows that were seen last, by order. */
  readonly #waiting = new Map<string, string>();
  #looks = 0;

  constructor(options: LookAgainOptions) {
    this.#options = options;
  }

  /** Orders that were looked at again. */
  get looks(): number {
    return this.#looks;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  async add(picture: OrderPicture): Promise<void> {
    this.#waiting.set(picture.orderId, picture.content());
    if (this.#waiting.size >= waitingMax) await this.#shrink();
  }

  /** Looks until nothing waits any more. */
  async finish(): Promise<void> {
    const until = this.#giveUpAtMs();
    for (;;) {
      await this.#round(performance.now() > until);
      if (this.#waiting.size === 0) return;
      await sleep(pauseMs);
    }
  }

  async #shrink(): Promise<void> {
    const until = this.#giveUpAtMs();
    for (;;) {
      await this.#round(performance.now() > until);
      if (this.#waiting.size < waitingMax / 2) return;
      await sleep(pauseMs);
    }
  }

  #giveUpAtMs(): number {
    return performance.now() + (this.#options.graceSeconds + patienceSeconds) * 1_000;
  }

  async #round(isLast: boolean): Promise<void> {
    const { read, readClock, look, confirm } = this.#options;
    const ids = [...this.#waiting.keys()];
    for (let from = 0; from < ids.length; from += batch) {
      const some = ids.slice(from, from + batch);
      // The clock first: what was consumed by then has its effects in the rows that are read after it.
      const clock = await readClock();
      const pictures = await read(some);
      for (const orderId of some) {
        const picture = pictures.get(orderId);
        this.#looks += 1;
        const flaws = picture === undefined ? [] : look(picture, clock);
        if (picture === undefined || flaws.length === 0) {
          this.#waiting.delete(orderId);
          continue;
        }
        const content = picture.content();
        const isSame = content === this.#waiting.get(orderId);
        if (isLast || (isSame && picture.newestChange() <= clock.settledBefore)) {
          this.#waiting.delete(orderId);
          confirm(flaws);
        } else {
          this.#waiting.set(orderId, content);
        }
      }
    }
  }
}
