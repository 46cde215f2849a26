import { Batcher } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Pool } from '../runtime/mysql.ts';
import { listSkus, readSkus, type SkuRow } from './ledger-skus.ts';

/** What was read stays true for so long, in milliseconds; whoever looks at a page waits for nothing meanwhile. */
const freshMs = 200;
/** SKUs, and pages of them, that are remembered. */
const keptMax = 10_000;
const pagesMax = 200;
const entriesMax = 500;
const waitingMax = 10_000;
const readMs = 2_000;

/** A page of SKUs by ascending id, beginning behind `after`. */
export interface SkuPage {
  readonly after: bigint;
  readonly max: number;
}

/**
 * SKUs for those who look at them: from memory where it was read just now, else by one statement for
 * all who wait. A crowd of them costs the ledger a few reads a second, over connections that buyers'
 * posts do not need.
 */
export class SkuReads {
  readonly #skus: Cache<bigint, SkuRow | undefined>;
  readonly #pages: Cache<string, SkuRow[]>;
  readonly #single: Batcher<bigint, SkuRow | undefined>;
  readonly #listed: Batcher<SkuPage, SkuRow[]>;

  /** @param pool of its own, so that readers take nobody's connection */
  constructor(pool: Pool) {
    this.#skus = new Cache(keptMax);
    this.#pages = new Cache(pagesMax);
    const common = {
      inFlightMax: 1,
      queueDepthMax: waitingMax,
      afterSend: 'DEPENDENCY_DOWN',
    } as const;
    this.#single = new Batcher({
      ...common,
      name: 'sku_read',
      entriesMax,
      run: (skuIds, { deadline }) => this.#readAll(pool, skuIds, deadline),
    });
    this.#listed = new Batcher({
      ...common,
      name: 'sku_list',
      entriesMax,
      run: (pages, { deadline }) => this.#listAll(pool, pages, deadline),
    });
  }

  /** @throws Refusal DEPENDENCY_DOWN or OVERLOADED */
  async get(skuId: bigint, deadline: Deadline): Promise<SkuRow | undefined> {
    const known = this.#skus.get(skuId);
    return known ? known.value : await this.#single.add(skuId, deadline);
  }

  /** @throws as `get` */
  async list(page: SkuPage, deadline: Deadline): Promise<SkuRow[]> {
    return this.#pages.get(keyOf(page))?.value ?? (await this.#listed.add(page, deadline));
  }

  /** Forgets what is known of a SKU that this process has just changed. */
  forget(skuId: bigint): void {
    this.#skus.delete(skuId);
    this.#pages.clear();
  }

  async close(): Promise<void> {
    await Promise.all([this.#single.close(), this.#listed.close()]);
  }

  async #readAll(
    pool: Pool,
    skuIds: readonly bigint[],
    deadline: Deadline,
  ): Promise<(SkuRow | undefined)[]> {
    const rows = await readSkus(pool, [...new Set(skuIds)], deadline.min(readMs));
    const found = new Map(rows.map((sku) => [sku.skuId, sku]));
    for (const skuId of skuIds) this.#skus.set(skuId, found.get(skuId));
    return skuIds.map((skuId) => found.get(skuId));
  }

  /** Each page once, one after the other; the first failure is that of all, for they have one server. */
  async #listAll(pool: Pool, pages: readonly SkuPage[], deadline: Deadline): Promise<SkuRow[][]> {
    const read = new Map<string, SkuRow[]>();
    for (const page of pages) {
      const key = keyOf(page);
      if (read.has(key)) continue;
      const rows = await listSkus(pool, page, deadline.min(readMs));
      read.set(key, rows);
      this.#pages.set(key, rows);
    }
    return pages.map((page) => read.get(keyOf(page)) as SkuRow[]);
  }
}

function keyOf({ after, max }: SkuPage): string {
  return `${after}:${max}`;
}

/** Values that are believed for a moment. */
class Cache<Key, Value> {
  readonly #max: number;
  readonly #values = new Map<Key, { readonly value: Value; readonly untilMs: number }>();

  constructor(max: number) {
    this.#max = max;
  }

  get(key: Key): { readonly value: Value } | undefined {
    const known = this.#values.get(key);
    return known !== undefined && known.untilMs > performance.now() ? known : undefined;
  }

  set(key: Key, value: Value): void {
    if (this.#values.size >= this.#max) this.#values.clear();
    this.#values.set(key, { value, untilMs: performance.now() + freshMs });
  }

  delete(key: Key): void {
    this.#values.delete(key);
  }

  clear(): void {
    this.#values.clear();
  }
}
