import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { CreditFenced } from './credit-fenced.ts';
import type { Gate } from './gate.ts';
import type { GateConnection } from './gate-connection.ts';
import { readPending } from './gate-view.ts';
import { holdState } from './hold-states.ts';
import { type FenceEntry, fenceLines } from './ledger-fence.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import type { StockMetrics } from './stock-metrics.ts';

const intervalMaxMs = 1_000;
/** Lines settled per SKU and step, and steps in one round. */
const settleMax = 500;
const stepsMax = 200;
const deadlineMs = 10_000;

export interface SettlePendingOptions {
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly pool: Pool;
  readonly creditFenced: CreditFenced;
}

/**
 * Settles lines that passed a gate and are pending for at least `ageMs`: what the ledger has is
 * removed from the list; what it does not have is barred there by a FENCED row first, so that a late
 * post is refused, and then given back at the gate. Answers how many lines it found.
 *
 * @throws Refusal if Redis or the ledger is away; asking again does no harm
 */
export async function settleEntries(
  { gate, connection, pool, creditFenced }: SettlePendingOptions,
  skuIds: readonly bigint[],
  { ageMs, max }: { ageMs: number; max: number },
  deadline: Deadline,
): Promise<{ lines: number; fenced: number; more: boolean }> {
  const pending = await readPending(connection, skuIds, { ageMs, max });
  let lines = 0;
  let fenced = 0;
  let more = false;
  for (const [skuId, entries] of pending) {
    const chunk = entries.map((entry): FenceEntry => ({ ...entry, skuId }));
    const states = await fenceLines(pool, chunk, deadline);
    const barred = chunk.filter((_, index) => states[index] === holdState.FENCED);
    const kept = chunk.filter((_, index) => states[index] !== holdState.FENCED);
    if (kept.length > 0) {
      await gate.settle(
        skuId,
        kept.map(({ orderId }) => orderId),
      );
    }
    await creditFenced(barred);
    lines += chunk.length;
    fenced += barred.length;
    more ||= chunk.length === max;
  }
  return { lines, fenced, more };
}

/** Looks for pending entries that are too old, for as long as the service runs. */
export function startSettlePending(
  options: SettlePendingOptions & {
    readonly catalogue: SkuCatalogue;
    readonly settleAgeMs: number;
    readonly metrics: StockMetrics;
    readonly log: Log;
  },
): Loop {
  const { catalogue, settleAgeMs: ageMs, metrics, log } = options;
  return startLoop({
    name: 'settle-pending',
    intervalMs: Math.min(intervalMaxMs, ageMs / 4),
    log,
    async run(signal) {
      for (let step = 0; step < stepsMax && !signal.aborted; step += 1) {
        const deadline = Deadline.after(deadlineMs);
        const skuIds = catalogue.all();
        const settled = await settleEntries(options, skuIds, { ageMs, max: settleMax }, deadline);
        metrics.fenced.inc(settled.fenced);
        if (settled.fenced > 0) log.info({ lines: settled.fenced }, 'pending lines were fenced');
        if (!settled.more) return;
      }
    },
  });
}
