import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { isLockWait, type Pool } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { heldAmong } from './ledger-sweep.ts';
import { HoldsBusy, type ReleaseStock } from './release-stock.ts';
import type { StockMetrics } from './stock-metrics.ts';

/** Orders released in one transaction. */
const releaseMax = 500;
const deadlineMs = 10_000;

export interface ReleaseDeadOptions {
  readonly pool: Pool;
  readonly releaseStock: Pick<ReleaseStock, 'release'>;
  readonly metrics: Pick<StockMetrics, 'holdsSetAside'>;
  readonly log: Log;
}

/**
 * Releases the holds of orders that do not exist. Answers the orders that are to be asked for again:
 * their rows are locked, or belong to a transaction under way. One that the ledger refuses to move is
 * set aside, so that it keeps no others: it is logged and counted, and recheck-holds.ts tries it again.
 *
 * @throws Refusal if the ledger is away; asking again does no harm
 */
export async function releaseDead(
  options: ReleaseDeadOptions,
  orderIds: readonly bigint[],
): Promise<ReadonlySet<bigint>> {
  const kept = new Set<bigint>();
  for (let from = 0; from < orderIds.length; from += releaseMax) {
    await releaseChunk(options, orderIds.slice(from, from + releaseMax), kept);
  }
  return kept;
}

async function releaseChunk(
  options: ReleaseDeadOptions,
  orderIds: readonly bigint[],
  kept: Set<bigint>,
): Promise<void> {
  const { pool, releaseStock, metrics, log } = options;
  const moves = orderIds.map((orderId) => {
    return { orderId, move: 'RELEASE', fenceSkuIds: [], userId: 0n, requestId: '' } as const;
  });
  let released: bigint[];
  try {
    const deadline = Deadline.after(deadlineMs);
    released = await releaseStock.release(moves, { forgetRequests: true }, deadline);
  } catch (error) {
    if (error instanceof HoldsBusy) {
      for (const orderId of error.orderIds) kept.add(orderId);
    } else if (error instanceof Refusal || isLockWait(error)) {
      throw error;
    } else if (orderIds.length > 1) {
      for (const orderId of orderIds) await releaseChunk(options, [orderId], kept);
    } else {
      log.error({ err: error, orderId: String(orderIds[0]) }, 'a hold cannot be released');
      metrics.holdsSetAside.inc();
    }
    return;
  }
  const count = released.filter((units) => units > 0n).length;
  if (count > 0) log.info({ orders: count }, 'holds without an order were released');
  // Nothing was moved of these: they were released before, or are being inserted just now.
  const unmoved = orderIds.filter((_, index) => released[index] === 0n);
  for (const orderId of await heldAmong(pool, unmoved, Deadline.after(deadlineMs))) {
    kept.add(orderId);
  }
}
