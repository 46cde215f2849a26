import { randomUUID } from 'node:crypto';
import { Deadline } from '../runtime/deadline.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import {
  claimRecheck,
  type RecheckClaim,
  type RecheckRange,
  type RecheckWalk,
  readRecheckPage,
  releaseRecheck,
  storeRecheckTurn,
} from './ledger-recheck.ts';
import { MendHolds } from './mend-holds.ts';
import type { OrderGateway } from './order-gateway.ts';
import type { ReleaseStock } from './release-stock.ts';
import type { StockMetrics } from './stock-metrics.ts';

const turnEveryMaxMs = 1_000;
/** Rest between two passes at most; a short age, which only tests have, shortens it. */
const restMaxMs = 300_000;
/** A turn is followed by a rest of so many times its duration: it takes a fifth of one connection at most. */
const restFactor = 4;
/** Rows that one statement reads, and statements of one turn: some 10 ms of the server's time in all. */
const rowsMax = 2_000;
const pagesMax = 10;
/** Orders asked for and moved in one turn; fewer after one that did not end in time. */
const ordersMax = 500;
const ordersMin = 20;
/** Far shorter than the time for which orders that were paid are kept: one that is gone reads as dead. */
const passAgeMaxMs = 30 * 86_400_000;
/** Where the walk along the edge begins if nobody walked for longer; the passes see to what is older. */
const edgeAgeMaxMs = 86_400_000;
/** What one turn may take in all: less than its claim lasts. */
const turnMs = 4_500;

export interface RecheckHoldsOptions {
  readonly pool: Pool;
  readonly order: OrderGateway;
  readonly releaseStock: Pick<ReleaseStock, 'release'>;
  /** How old an order is before its hold is looked at again. */
  readonly ageMs: number;
  readonly time: Pick<JudgedTime, 'nowMs'>;
  readonly metrics: Pick<StockMetrics, 'rechecked'>;
  readonly log: Log;
}

/**
 * Looks at old holds again, so that no promise rests on Kafka: whatever events were lost, the holds of
 * cancelled orders come back and those of paid orders are sold. Each hold is looked at once when its
 * order comes of age, at which an order that nobody paid is expired, and then in slow passes over all.
 * It has no hurry: one small page a turn, one process at a time, and a rest after each.
 */
export function startRecheckHolds(options: RecheckHoldsOptions): Loop {
  const { ageMs, log } = options;
  const intervalMs = Math.min(turnEveryMaxMs, ageMs / 4);
  const walks = [
    createWalk(options, 'edge', ageMs + edgeAgeMaxMs, intervalMs),
    createWalk(options, 'pass', passAgeMaxMs, intervalMs),
  ];
  return startLoop({
    name: 'recheck-holds',
    intervalMs,
    log,
    async run() {
      const failures: unknown[] = [];
      // One after the other, so that they do not mend the same holds; a failure of one is not the other's.
      for (const turn of walks) await turn().catch((error) => failures.push(error));
      if (failures.length > 0) throw failures[0];
    },
  });
}

function createWalk(
  options: RecheckHoldsOptions,
  walk: RecheckWalk,
  ageMaxMs: number,
  intervalMs: number,
): () => Promise<void> {
  const { pool, ageMs, time } = options;
  const claim: RecheckClaim = { walk, owner: randomUUID() };
  // What is left open on the edge is asked for again; a pass comes round by itself.
  const mend = new MendHolds(options, walk === 'edge' ? { againMs: Math.min(10_000, ageMs) } : {});
  let orders = ordersMax;
  return async () => {
    const nowMs = time.nowMs();
    if (nowMs === undefined) throw new Error('the clocks disagree');
    const deadline = Deadline.after(turnMs);
    const times = { sinceMs: nowMs - ageMaxMs, untilMs: nowMs - ageMs };
    const range = await claimRecheck(pool, claim, times, deadline);
    if (range === undefined) return;
    const turn = { claim, mend, range, orders, intervalMs, deadline };
    orders = Math.max(ordersMin, Math.floor(orders / 2));
    await takeTurn(options, turn);
    orders = Math.min(ordersMax, turn.orders * 2);
  };
}

interface Turn {
  readonly claim: RecheckClaim;
  readonly mend: MendHolds;
  readonly range: RecheckRange;
  readonly orders: number;
  readonly intervalMs: number;
  readonly deadline: Deadline;
}

async function takeTurn({ pool, ageMs }: RecheckHoldsOptions, turn: Turn): Promise<void> {
  const { claim, mend, range, orders, deadline } = turn;
  const startedMs = performance.now();
  let isStored = false;
  try {
    const open = mend.openOrders(Math.ceil(orders / 2));
    const page = await readPages(pool, range, orders - open.length, deadline);
    await mend.mend([...new Set([...open, ...page.orderIds])], deadline);
    const isAtEnd = page.last >= range.until;
    const startsOver = isAtEnd && claim.walk === 'pass';
    const pauseMs = startsOver ? Math.min(restMaxMs, ageMs) : turn.intervalMs;
    const restMs = Math.max(pauseMs, (performance.now() - startedMs) * restFactor);
    await storeRecheckTurn(pool, claim, startsOver ? 0n : page.last, restMs, deadline);
    isStored = true;
  } finally {
    // The cursor stays, and the next turn looks at the same orders.
    if (!isStored) {
      await releaseRecheck(pool, claim, Deadline.after(turnMs)).catch(() => undefined);
    }
  }
}

/** Reads on until a turn has its orders; each statement is short, for buyers' statements wait beside it. */
async function readPages(
  pool: Pool,
  { after, until }: RecheckRange,
  max: number,
  deadline: Deadline,
): Promise<{ readonly orderIds: bigint[]; readonly last: bigint }> {
  const orderIds: bigint[] = [];
  let last = after < until ? after : until;
  for (let page = 0; page < pagesMax && last < until && orderIds.length < max; page += 1) {
    const bounds = { rowsMax, ordersMax: max - orderIds.length };
    const read = await readRecheckPage(pool, { after: last, until }, bounds, deadline);
    orderIds.push(...read.orderIds);
    last = read.last;
  }
  return { orderIds, last };
}
