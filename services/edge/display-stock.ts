import type { DisplayStock } from '../../gen/sluice/stock/v1/stock_service.ts';
import { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';

/** What the edge shows may be this old. */
const freshMs = 200;
/** SKUs remembered at most; the one that was fetched longest ago goes first. */
const skusMax = 10_000;
/** SKUs in one call at most, as stock takes them. */
const batchSkusMax = 500;
/** SKUs waiting for the next call at most. */
const waitingSkusMax = 5_000;
const fetchDeadlineMs = 500;
/** A fetch that takes longer, in milliseconds, keeps nobody waiting for the next one … */
const patienceMs = 100;
/** … unless so many are under way. */
const fetchesMax = 4;

export interface DisplayStockOptions {
  /** Reads the figures of 1 to 500 SKUs, in their order. */
  readonly fetch: (skuIds: bigint[], deadline: Deadline) => Promise<DisplayStock[]>;
  /** Milliseconds on a clock that never goes back. */
  readonly nowMs?: () => number;
}

interface Remembered {
  readonly stock: DisplayStock;
  /** When its fetch began, so that the figure is no older than this. */
  readonly sinceMs: number;
}

interface Fetch {
  readonly skuIds: bigint[];
  readonly done: Promise<void>;
  readonly settle: (error?: unknown) => void;
}

/**
 * The display layer: figures in memory, at most 200 ms old. Nothing is fetched unless somebody asks;
 * whoever asks for a stale figure waits for the one call that is under way or comes next, so that any
 * number of buyers cost stock at most one figure per SKU and 200 ms. A call that hangs holds up those
 * who wait for its SKUs, and the others for 100 ms.
 */
export class DisplayStockMemory {
  readonly #fetch: DisplayStockOptions['fetch'];
  readonly #nowMs: () => number;
  readonly #remembered = new Map<bigint, Remembered>();
  /** The fetch that each SKU waits for, whether it is under way or next. */
  readonly #waiting = new Map<bigint, Fetch>();
  readonly #queue: Fetch[] = [];
  #underWay = 0;
  #scheduled = false;
  #patience: NodeJS.Timeout | undefined;

  constructor({ fetch, nowMs = () => performance.now() }: DisplayStockOptions) {
    this.#fetch = fetch;
    this.#nowMs = nowMs;
  }

  /**
   * The figures of the SKUs, in their order.
   *
   * @throws Refusal OVERLOADED if too many SKUs wait, or whatever the fetch threw
   */
  async read(skuIds: readonly bigint[]): Promise<DisplayStock[]> {
    const awaited = new Set<Fetch>();
    const staleBeforeMs = this.#nowMs() - freshMs;
    for (const skuId of skuIds) {
      const remembered = this.#remembered.get(skuId);
      if (remembered && remembered.sinceMs > staleBeforeMs) continue;
      awaited.add(this.#waiting.get(skuId) ?? this.#enqueue(skuId));
    }
    if (awaited.size > 0) await Promise.all([...awaited].map((fetch) => fetch.done));
    return skuIds.map((skuId) => this.#remembered.get(skuId)?.stock ?? unloaded(skuId));
  }

  #enqueue(skuId: bigint): Fetch {
    if (this.#waiting.size >= waitingSkusMax) throw new Refusal('OVERLOADED');
    let last = this.#queue.at(-1);
    if (!last || last.skuIds.length >= batchSkusMax) {
      last = newFetch();
      this.#queue.push(last);
    }
    last.skuIds.push(skuId);
    this.#waiting.set(skuId, last);
    this.#schedule();
    return last;
  }

  /** At the end of this turn, so that what is asked for together is fetched together. */
  #schedule(): void {
    if (this.#scheduled || this.#underWay >= fetchesMax) return;
    if (this.#underWay > 0 && this.#patience !== undefined) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      const next = this.#queue.shift();
      if (next !== undefined) void this.#run(next);
    });
  }

  async #run({ skuIds, settle }: Fetch): Promise<void> {
    const sinceMs = this.#nowMs();
    this.#underWay += 1;
    clearTimeout(this.#patience);
    this.#patience = setTimeout(() => {
      this.#patience = undefined;
      if (this.#queue.length > 0) this.#schedule();
    }, patienceMs);
    try {
      const stocks = await this.#fetch(skuIds, Deadline.after(fetchDeadlineMs));
      for (const stock of stocks) this.#remember(stock, sinceMs);
      settle();
    } catch (error) {
      settle(error);
    }
    for (const skuId of skuIds) this.#waiting.delete(skuId);
    this.#underWay -= 1;
    if (this.#underWay === 0) {
      clearTimeout(this.#patience);
      this.#patience = undefined;
    }
    if (this.#queue.length > 0) this.#schedule();
  }

  #remember(stock: DisplayStock, sinceMs: number): void {
    this.#remembered.delete(stock.skuId);
    this.#remembered.set(stock.skuId, { stock, sinceMs });
    if (this.#remembered.size <= skusMax) return;
    const oldest = this.#remembered.keys().next();
    if (!oldest.done) this.#remembered.delete(oldest.value);
  }
}

function newFetch(): Fetch {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // A fetch whose askers are all gone must not end the process.
  promise.catch(() => {});
  return {
    skuIds: [],
    done: promise,
    settle: (error) => (error === undefined ? resolve() : reject(error)),
  };
}

function unloaded(skuId: bigint): DisplayStock {
  return { skuId, loaded: false, available: 0n, paused: false };
}
