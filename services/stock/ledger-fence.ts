import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { type Pool, transaction } from '../runtime/mysql.ts';
import { type HoldState, holdState } from './hold-states.ts';
import { insertHoldsSql, lockSkus, type NewHold, readHolds, runTogether } from './ledger-sql.ts';

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
 * or what was there before.
 *
 * @throws Refusal as `transaction`; asking again does no harm
 */
export async function fenceLines(
  pool: Pool,
  entries: readonly FenceEntry[],
  deadline: Deadline,
): Promise<HoldState[]> {
  if (entries.length === 0) return [];
  if (failpoints.on) await failpoints.hit('stock.before_fence', { lines: entries.length });
  const states = await transaction(pool, { deadline }, async (connection) => {
    const skus = await lockSkus(
      connection,
      entries.map(({ skuId }) => skuId),
    );
    const orderIds = new Set(entries.map(({ orderId }) => orderId));
    const holds = await readHolds(connection, [...orderIds]);
    const fences = new Map<string, NewHold>();
    const found = entries.map((entry): HoldState => {
      const hold = holds.get(entry.orderId)?.find(({ skuId }) => skuId === entry.skuId);
      if (hold) return hold.state;
      const sku = skus.get(entry.skuId);
      // A SKU without a row can never be posted, so nothing needs to be barred.
      if (sku) fences.set(`${entry.orderId}:${entry.skuId}`, fenceOf(entry, sku.currency));
      return holdState.FENCED;
    });
    await runTogether(connection, insertHoldsSql([...fences.values()]));
    return found;
  });
  if (failpoints.on) await failpoints.hit('stock.after_fence', { lines: entries.length });
  return states;
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
