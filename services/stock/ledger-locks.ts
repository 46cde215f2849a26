import type { RowDataPacket } from 'mysql2/promise';
import { isStatementTimeout, lockWaitLimit, type ServerKind } from '../runtime/mysql.ts';
import { type LockedSku, lockedSkus, lockSkusSql } from './ledger-sql.ts';

/** How a transaction locks the rows of its SKUs. */
export interface SkuLocks {
  /** SKUs whose rows are waited for, `waitMs` at most; ascending. */
  readonly wait: readonly bigint[];
  readonly waitMs: number;
  /** SKUs whose rows are taken only if nobody has them; ascending. */
  readonly take: readonly bigint[];
}

/** Waits a moment for the rows, but not for those that are known to be locked for longer. */
export function locksFor(skuIds: readonly bigint[], busySkus: KnownBusySkus): SkuLocks {
  const busy = busySkus.among(skuIds);
  const waitMs = busySkus.lockWaitMs();
  if (busy.size === 0) return { wait: skuIds, waitMs, take: [] };
  return {
    wait: skuIds.filter((skuId) => !busy.has(skuId)),
    waitMs,
    take: skuIds.filter((skuId) => busy.has(skuId)),
  };
}

/** Waits for nothing: for the second attempt, after `isStatementTimeout`. */
export function locksWithoutWait(skuIds: readonly bigint[]): SkuLocks {
  return { wait: [], waitMs: 0, take: skuIds };
}

/**
 * The statements that lock the rows; they wait first, and hold nothing meanwhile that was taken in
 * passing. The first one fails with the server's statement time-out if a row is not free in time.
 */
export function skuLocksSql(kind: ServerKind, { wait, waitMs, take }: SkuLocks): string[] {
  return [
    ...(wait.length > 0 ? [lockWaitLimit(kind, waitMs, lockSkusSql(wait))] : []),
    ...(take.length > 0
      ? [`SELECT sku_id FROM skus WHERE sku_id IN (${take.join(',')})`, skipLockedSql(take)]
      : []),
  ];
}

/** How many results the statements of `skuLocksSql` have. */
export function skuLocksCount({ wait, take }: SkuLocks): number {
  return (wait.length > 0 ? 1 : 0) + (take.length > 0 ? 2 : 0);
}

/** What the statements of `skuLocksSql` got: the rows that are locked now, and the SKUs that others have. */
export interface SkusGot {
  readonly skus: Map<bigint, LockedSku>;
  readonly busy: ReadonlySet<bigint>;
}

/** Reads the results of `skuLocksSql`. A SKU in neither part of the answer does not exist. */
export function skusGot({ wait, take }: SkuLocks, results: readonly RowDataPacket[][]): SkusGot {
  const [waited = [], existing = [], taken = []] = wait.length > 0 ? results : [[], ...results];
  const skus = lockedSkus([...waited, ...taken]);
  const busy = new Set<bigint>();
  for (const row of take.length > 0 ? existing : []) {
    const skuId = BigInt(row.sku_id);
    if (!skus.has(skuId)) busy.add(skuId);
  }
  return { skus, busy };
}

function skipLockedSql(ids: readonly bigint[]): string {
  return `${lockSkusSql(ids)} SKIP LOCKED`;
}

/**
 * Runs a transaction that waits a moment for its SKUs' rows; if one of them is not free in time, once
 * more without waiting for any. What it then could not lock is told to `busySkus`, so that the next
 * ones do not wait for it either.
 */
export async function withSkuLocks<Result>(
  skuIds: readonly bigint[],
  busySkus: KnownBusySkus,
  run: (locks: SkuLocks) => Promise<{ result: Result; busy: ReadonlySet<bigint> }>,
): Promise<Result> {
  const startedMs = performance.now();
  const outcome = await run(locksFor(skuIds, busySkus)).then(
    (done) => {
      busySkus.took(performance.now() - startedMs);
      return done;
    },
    async (error) => {
      if (!isStatementTimeout(error)) throw error;
      return await run(locksWithoutWait(skuIds));
    },
  );
  busySkus.note(skuIds, outcome.busy);
  return outcome.result;
}

/** Which SKUs are known to be locked by others for longer than a moment. */
export interface KnownBusySkus {
  among(skuIds: readonly bigint[]): ReadonlySet<bigint>;
  /** Notes what an attempt found: of all these SKUs the busy ones, and that the others were free. */
  note(skuIds: readonly bigint[], busy: ReadonlySet<bigint>): void;
  /** Notes how long a transaction took that got its locks, in milliseconds. */
  took(ms: number): void;
  /**
   * How long to wait for rows that others have locked, in milliseconds: longer than ours hold them,
   * short enough for the buyers of all other SKUs in the same transaction.
   */
  lockWaitMs(): number;
}
