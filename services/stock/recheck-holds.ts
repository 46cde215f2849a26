import { randomUUID } from 'node:crypto';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { OrderMove } from './ledger-moves.ts';
import {
  claimRecheck,
  type RecheckRange,
  readRecheckPage,
  releaseRecheck,
  storeRecheckTurn,
} from './ledger-recheck.ts';
import type { OrderGateway, Resolution } from './order-gateway.ts';
import type { ReleaseStock } from './release-stock.ts';
import type { StockMetrics } from './stock-metrics.ts';
import { isPassing } from './sweep-holds.ts';

const turnEveryMaxMs = 1_000;
/** Rest between two passes at most; a short age, which only tests have, shortens it. */
const restMaxMs = 300_000;
/** A turn is followed by a rest of so many times its duration: it takes a fifth of one connection at most. */
const restFactor = 4;
/** Rows that one turn reads: some 10 ms of the server's time. A month of busy sales takes hours, in turns. */
const rowsMax = 20_000;
/** Orders asked for and moved in one turn. */
const ordersMax = 500;
/** Far shorter than the time for which orders that were paid are kept: one that is gone reads as dead. */
const ageMaxMs = 30 * 86_400_000;
const deadlineMs = 10_000;

export interface RecheckHoldsOptions {
  readonly pool: Pool;
  readonly order: OrderGateway;
  readonly releaseStock: Pick<ReleaseStock, 'release'>;
  /** How old an order is before its hold is looked at again. */
  readonly ageMs: number;
  readonly metrics: Pick<StockMetrics, 'rechecked'>;
  readonly log: Log;
}

/**
 * Looks at old holds again and again, so that no promise rests on Kafka: whatever events were lost,
 * the holds of cancelled orders come back and those of paid orders are sold. It has no hurry: one small
 * page a turn, one process at a time, and a rest after each pass.
 */
export function startRecheckHolds(options: RecheckHoldsOptions): Loop {
  const { pool, ageMs, log } = options;
  const owner = randomUUID();
  const intervalMs = Math.min(turnEveryMaxMs, ageMs / 4);
  return startLoop({
    name: 'recheck-holds',
    intervalMs,
    log,
    async run() {
      const ages = { ageMs, ageMaxMs };
      const range = await claimRecheck(pool, owner, ages, Deadline.after(deadlineMs));
      if (range !== undefined) await takeTurn(options, owner, range, intervalMs);
    },
  });
}

async function takeTurn(
  options: RecheckHoldsOptions,
  owner: string,
  range: RecheckRange,
  intervalMs: number,
): Promise<void> {
  const { pool, ageMs } = options;
  const startedMs = performance.now();
  let done = false;
  try {
    const last = await recheckPage(options, range);
    const passDone = last >= range.until;
    const pauseMs = passDone ? Math.min(restMaxMs, ageMs) : intervalMs;
    const restMs = Math.max(pauseMs, (performance.now() - startedMs) * restFactor);
    const deadline = Deadline.after(deadlineMs);
    await storeRecheckTurn(pool, owner, { last, passDone }, restMs, deadline);
    done = true;
  } finally {
    // The cursor stays, and the next turn looks at the same page.
    if (!done) await releaseRecheck(pool, owner, Deadline.after(deadlineMs)).catch(() => undefined);
  }
}

/** Answers the last order that was looked at. */
async function recheckPage(options: RecheckHoldsOptions, range: RecheckRange): Promise<bigint> {
  const { pool, order } = options;
  if (range.after >= range.until) return range.until;
  const deadline = Deadline.after(deadlineMs);
  const { orderIds, last } = await readRecheckPage(pool, range, { rowsMax, ordersMax }, deadline);
  if (orderIds.length === 0) return last;
  const resolutions = await order.resolve(orderIds, deadline);
  const moves = orderIds.flatMap((orderId, index): OrderMove[] => {
    const move = moveOf(resolutions[index] as Resolution);
    if (move === undefined) return [];
    return [{ orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' }];
  });
  if (moves.length > 0) await mend(options, moves);
  return last;
}

/**
 * What is live or undecided is looked at again in the next pass. A refunded order is sold here, also if
 * an operator wanted its units back on sale: only the lost event said so. Selling too little does no harm,
 * and `AdjustStock` puts them back.
 */
function moveOf(resolution: Resolution): OrderMove['move'] | undefined {
  if (resolution === 'DEAD') return 'RELEASE';
  return resolution === 'SOLD' ? 'SELL' : undefined;
}

async function mend(options: RecheckHoldsOptions, moves: readonly OrderMove[]): Promise<void> {
  const { metrics, log } = options;
  const stuck = await moveAll(options, moves);
  const moved = moves.filter(({ orderId }) => !stuck.has(orderId));
  const released = moved.filter(({ move }) => move === 'RELEASE').length;
  const sold = moved.length - released;
  if (released > 0) metrics.rechecked.inc({ move: 'release' }, released);
  if (sold > 0) metrics.rechecked.inc({ move: 'sell' }, sold);
  if (moved.length > 0) log.info({ released, sold }, 'holds that missed an event were mended');
  const [first] = stuck;
  if (first === undefined) return;
  const [orderId, err] = first;
  log.error({ err, orderId: String(orderId), orders: stuck.size }, 'old holds cannot be moved');
}

/** Answers the orders whose holds stay, with the reason, for one of them must not keep the others. */
async function moveAll(
  { releaseStock }: RecheckHoldsOptions,
  moves: readonly OrderMove[],
): Promise<ReadonlyMap<bigint, unknown>> {
  // As with the event: a cancelled order keeps its request record, which leads a retry to it.
  const moveTogether = (some: readonly OrderMove[]): Promise<unknown> =>
    releaseStock.release(some, { forgetRequests: false }, Deadline.after(deadlineMs));
  const stuck = new Map<bigint, unknown>();
  try {
    await moveTogether(moves);
  } catch (error) {
    if (isPassing(error)) throw error;
    for (const move of moves) {
      try {
        await moveTogether([move]);
      } catch (cause) {
        if (isPassing(cause)) throw cause;
        stuck.set(move.orderId, cause);
      }
    }
  }
  return stuck;
}
