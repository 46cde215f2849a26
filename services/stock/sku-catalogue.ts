import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Pool } from '../runtime/mysql.ts';
import { readSkus } from './ledger-skus.ts';

/** SKUs are never removed, so a known one stays known. */
const knownMax = 1_000_000;
/** How long "there is no such SKU" is believed: an operator may create it any moment. */
const absentMs = 1_000;
const absentMax = 10_000;
const readMax = 500;

/** Knows which SKUs exist, so that nonsense ids reach neither Redis nor, more than once a second, MySQL. */
export class SkuCatalogue {
  readonly #pool: Pool;
  readonly #known = new Set<bigint>();
  /** Absent SKUs and the moment until which that is believed. */
  readonly #absentUntilMs = new Map<bigint, number>();

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Remembers SKUs that are known to exist. */
  add(skuIds: Iterable<bigint>): void {
    for (const skuId of skuIds) {
      if (this.#known.size < knownMax) this.#known.add(skuId);
      this.#absentUntilMs.delete(skuId);
    }
  }

  /** All SKUs that are known. */
  all(): bigint[] {
    return [...this.#known];
  }

  /**
   * The SKUs among all lines that do not exist; undefined if all exist, which is decided without
   * waiting for anything.
   *
   * @throws Refusal DEPENDENCY_DOWN if a SKU is not known and the ledger does not answer
   */
  absentAmong(
    reservations: readonly StockReservation[],
    deadline: Deadline,
  ): Promise<ReadonlySet<bigint>> | undefined {
    let doubtful: Set<bigint> | undefined;
    for (const { lines } of reservations) {
      for (const { skuId } of lines) {
        if (!this.#known.has(skuId)) {
          doubtful ??= new Set();
          doubtful.add(skuId);
        }
      }
    }
    return doubtful && this.#findAbsent(doubtful, deadline);
  }

  async #findAbsent(
    doubtful: ReadonlySet<bigint>,
    deadline: Deadline,
  ): Promise<ReadonlySet<bigint>> {
    const nowMs = performance.now();
    const unread: bigint[] = [];
    for (const skuId of doubtful) {
      if ((this.#absentUntilMs.get(skuId) ?? 0) <= nowMs) unread.push(skuId);
    }
    for (let from = 0; from < unread.length; from += readMax) {
      const found = await readSkus(this.#pool, unread.slice(from, from + readMax), deadline);
      this.add(found.map(({ skuId }) => skuId));
    }
    const absent = new Set<bigint>();
    for (const skuId of doubtful) {
      if (this.#known.has(skuId)) continue;
      absent.add(skuId);
    }
    for (const skuId of unread) {
      if (!absent.has(skuId)) continue;
      if (this.#absentUntilMs.size >= absentMax) this.#absentUntilMs.clear();
      this.#absentUntilMs.set(skuId, nowMs + absentMs);
    }
    return absent;
  }
}
