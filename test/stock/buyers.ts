import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from '../support/eventually.ts';
import { seededRandom } from '../support/workload.ts';
import { reservation, type StockSystem } from './support.ts';

/** Buyers of some SKUs who reserve one unit after the other until stopped, and give some back. */
export interface Buyers {
  /** Orders that were answered as reserved so far. */
  readonly reserved: () => number;
  /** Orders that were told the SKU is not loaded. */
  readonly notLoaded: () => number;
  stop(): Promise<void>;
}

const notLoadedReason = 14;
const restMs = 10;

export function startBuyers(
  { stock }: Pick<StockSystem, 'stock'>,
  skuIds: readonly bigint[],
  { seed = 1, concurrency = 4, releaseShare = 0.3, userId = undefined as bigint | undefined } = {},
): Buyers {
  let stopped = false;
  let reserved = 0;
  let notLoaded = 0;
  async function buyer(index: number): Promise<void> {
    const random = seededRandom(seed + index);
    while (!stopped) {
      const skuId = skuIds[Math.floor(random() * skuIds.length)] as bigint;
      const order = reservation([skuId], userId === undefined ? {} : { userId });
      const answer = await stock.reserveStock({ reservations: [order] }).catch(() => undefined);
      const outcome = answer?.results[0]?.outcome;
      if (outcome?.$case === 'refused' && outcome.value.reason === notLoadedReason) notLoaded += 1;
      if (outcome?.$case === 'reserved') {
        reserved += 1;
        if (random() < releaseShare) {
          const { orderId, userId: user, requestId } = order;
          const release = { orderId, userId: user, requestId, skuIds: [] };
          await stock.releaseStock({ releases: [release] }).catch(() => undefined);
        }
      }
      await sleep(restMs * 2 * random());
    }
  }
  const buyers = Array.from({ length: concurrency }, (_, index) => buyer(index));
  return {
    reserved: () => reserved,
    notLoaded: () => notLoaded,
    async stop() {
      stopped = true;
      await Promise.all(buyers);
    },
  };
}

/** Waits until so many more orders have been reserved. */
export async function untilSold(buyers: Buyers, more: number): Promise<void> {
  const before = buyers.reserved();
  await eventually(() => buyers.reserved() >= before + more, `${more} more orders are reserved`);
}

/** What SKU and rows say, as one line; equal figures mean that P1 is kept. */
export async function figuresOf(
  { pool }: Pick<StockSystem, 'pool'>,
  skuId: bigint,
): Promise<{ supplied: number; available: number; held: number; rowsHeld: number }> {
  const [rows] = await pool.query(
    `SELECT supplied, available, held, sold, (SELECT COALESCE(SUM(units), 0) FROM stock_holds
       WHERE stock_holds.sku_id = skus.sku_id AND state = 1) AS rows_held
     FROM skus WHERE sku_id = ?`,
    [skuId],
  );
  const [row] = rows as Record<string, string>[];
  return {
    supplied: Number(row?.supplied),
    available: Number(row?.available),
    held: Number(row?.held),
    rowsHeld: Number(row?.rows_held),
  };
}

/** One metric of a process, by its name and labels as they are exposed. */
export async function metric(metricsPort: number, name: string, labels = ''): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  for (const line of text.split('\n')) {
    if (line.startsWith(`${name}{`) && line.includes(labels)) return Number(line.split(' ').at(-1));
  }
  return Number.NaN;
}
