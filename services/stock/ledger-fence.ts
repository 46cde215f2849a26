import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { type Pool, type ServerKind, transaction } from '../runtime/mysql.ts';
import { type HoldState, holdState } from './hold-states.ts';
import {
  type KnownBusySkus,
  type SkuLocks,
  skuLocksCount,
  skuLocksSql,
  skusGot,
  withSkuLocks,
} from './ledger-locks.ts';
import {
  ascending,
  holdsByOrder,
  insertHoldsSql,
  type NewHold,
  readHoldsSql,
  runTogether,
} from './ledger-sql.ts';

/** One line of an order that the ledger is to bar, unless it holds it already. */
export interface FenceEntry {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly units: number;
}

/** Content is never compared with a row that stands for no order. */
export const noFingerprint = Buffer.alloc(16);

/**
 * Takes the key of every line that the ledger does not have with a FENCED row, so that a post which
 * comes later is refused. Answers the state of each line's row afterwards, in their order: FENCED,
 * or what was there before; undefined if another transaction keeps the SKU's row locked, and nothing
 * was done about the line.
 *
 * @throws Refusal as `transaction`; asking again does no harm
 */
export async function fenceLines(
  pool: Pool,
  busySkus: KnownBusySkus,
  entries: readonly FenceEntry[],
  deadline: Deadline,
): Promise<(HoldState | undefined)[]> {
  if (entries.length === 0) return [];
  if (failpoints.on) await failpoints.hit('stock.before_fence', { lines: entries.length });
  const skuIds = ascending(entries.map(({ skuId }) => skuId));
  const states = await withSkuLocks(skuIds, busySkus, (locks) =>
    fenceWith(pool, locks, entries, deadline),
  );
  if (failpoints.on) await failpoints.hit('stock.after_fence', { lines: entries.length });
  return states;
}

async function fenceWith(
  pool: Pool,
  locks: SkuLocks,
  entries: readonly FenceEntry[],
  deadline: Deadline,
): Promise<{ result: (HoldState | undefined)[]; busy: ReadonlySet<bigint> }> {
  const orderIds = [...new Set(entries.map(({ orderId }) => orderId))];
  const opening = (kind: ServerKind): string[] => [
    ...skuLocksSql(kind, locks),
    ...readHoldsSql(orderIds),
  ];
  return await transaction(pool, { deadline, opening }, async (connection, opened) => {
    const count = skuLocksCount(locks);
    const { skus, busy } = skusGot(locks, opened.slice(0, count));
    const holds = holdsByOrder(opened.slice(count));
    const fences = new Map<string, NewHold>();
    const result = entries.map((entry): HoldState | undefined => {
      if (busy.has(entry.skuId)) return undefined;
      const hold = holds.get(entry.orderId)?.find(({ skuId }) => skuId === entry.skuId);
      if (hold) return hold.state;
      const sku = skus.get(entry.skuId);
      // A SKU without a row can never be posted, so nothing needs to be barred.
      if (sku) fences.set(`${entry.orderId}:${entry.skuId}`, fenceOf(entry, sku.currency));
      return holdState.FENCED;
    });
    await runTogether(connection, insertHoldsSql([...fences.values()]));
    return { result, busy };
  });
}

/** The row that bars a line. */
export function fenceOf(entry: FenceEntry, currency: string): NewHold {
  return {
    ...entry,
    fingerprint: noFingerprint,
    unitPriceMinor: 0n,
    currency,
    state: holdState.FENCED,
  };
}
