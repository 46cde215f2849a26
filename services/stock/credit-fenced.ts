import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import type { Gate, OrderRequest } from './gate.ts';
import type { StockMetrics } from './stock-metrics.ts';

/** A line that the ledger bars with a FENCED row. */
export type FencedLine = OrderRequest & { readonly skuId: bigint };

export type CreditFenced = (lines: readonly FencedLine[]) => Promise<void>;

const chunkMax = 500;

/**
 * Gives back at the gates what fenced orders still have pending there. A pending entry beside a
 * FENCED row is a unit that is out and will never be held, whoever wrote the row; taking the entry
 * away and crediting it is one step, so it is credited once. A gate that does not answer is left to
 * the settling loop, which comes by again.
 */
export function createCreditFenced(gate: Gate, metrics: StockMetrics, log: Log): CreditFenced {
  return async (lines) => {
    if (lines.length === 0) return;
    if (failpoints.on) await failpoints.hit('stock.before_credit', { lines: lines.length });
    const bySku = Map.groupBy(lines, ({ skuId }) => skuId);
    const calls = [...bySku].map(async ([skuId, orders]) => {
      for (let from = 0; from < orders.length; from += chunkMax) {
        const credited = await gate.creditFenced(skuId, orders.slice(from, from + chunkMax));
        metrics.credits.inc({ result: 'fenced' }, credited.filter(Boolean).length);
      }
    });
    const failed = (await Promise.allSettled(calls)).find(({ status }) => status === 'rejected');
    if (failed) log.warn({ err: (failed as PromiseRejectedResult).reason }, 'a credit waits');
  };
}
