import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { isLockWait, type Pool } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { heldAmong } from './ledger-sweep.ts';
import { HoldsBusy, type ReleaseStock } from './release-stock.ts';

/** Orders released in one transaction. */
const releaseMax = 500;
const deadlineMs = 10_000;

export interface ReleaseDeadOptions {
  readonly pool: Pool;
  readonly releaseStock: Pick<ReleaseStock, 'release'>;
  readonly log: Log;
}

/** Orders whose holds were not released. */
export interface NotReleased {
  /** Their rows are locked, or belong to a transaction under way: they are to be asked for again. */
  readonly again: Set<bigint>;
  /** The ledger refuses to move their holds, with the reason. */
  readonly failed: Map<bigint, unknown>;
}

/**
 * Releases the holds of orders that do not exist. One that cannot be released keeps no others.
 *
 * @throws Refusal if the ledger is away; asking again does no harm
 */
export async function releaseDead(
  options: ReleaseDeadOptions,
  orderIds: readonly bigint[],
): Promise<NotReleased> {
  const left: NotReleased = { again: new Set(), failed: new Map() };
  for (let from = 0; from < orderIds.length; from += releaseMax) {
    await releaseChunk(options, orderIds.slice(from, from + releaseMax), left);
  }
  return left;
}

async function releaseChunk(
  options: ReleaseDeadOptions,
  orderIds: readonly bigint[],
  left: NotReleased,
): Promise<void> {
  const { pool, releaseStock, log } = options;
  const moves = orderIds.map((orderId) => {
    return { orderId, move: 'RELEASE', fenceSkuIds: [], userId: 0n, requestId: '' } as const;
  });
  let released: readonly bigint[];
  try {
    const deadline = Deadline.after(deadlineMs);
    released = await releaseStock.release(moves, { forgetRequests: true }, deadline);
  } catch (error) {
    if (!(error instanceof HoldsBusy)) return await releaseApart(options, orderIds, left, error);
    for (const orderId of error.orderIds) left.again.add(orderId);
    released = error.units;
  }
  const count = released.filter((units) => units > 0n).length;
  if (count > 0) log.info({ orders: count }, 'holds without an order were released');
  // Nothing was moved of these: they were released before, or are being inserted just now.
  const unmoved = orderIds.filter((orderId, index) => {
    return released[index] === 0n && !left.again.has(orderId);
  });
  for (const orderId of await heldAmong(pool, unmoved, Deadline.after(deadlineMs))) {
    left.again.add(orderId);
  }
}

/** One of them is at fault: a few more transactions find it. @throws `error` if it is the ledger's */
async function releaseApart(
  options: ReleaseDeadOptions,
  orderIds: readonly bigint[],
  left: NotReleased,
  error: unknown,
): Promise<void> {
  if (error instanceof Refusal || isLockWait(error)) throw error;
  if (orderIds.length === 1) {
    left.failed.set(orderIds[0] as bigint, error);
    return;
  }
  const middle = Math.ceil(orderIds.length / 2);
  await releaseChunk(options, orderIds.slice(0, middle), left);
  await releaseChunk(options, orderIds.slice(middle), left);
}
