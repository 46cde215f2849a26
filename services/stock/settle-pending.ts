import { setTimeout as sleep } from 'node:timers/promises';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { CreditFenced } from './credit-fenced.ts';
import type { Gate } from './gate.ts';
import type { GateConnection } from './gate-connection.ts';
import { type PendingEntry, readPending } from './gate-view.ts';
import { type HoldState, holdState } from './hold-states.ts';
import type { Keeper } from './keeper.ts';
import { type FenceEntry, fenceLines } from './ledger-fence.ts';
import type { KnownBusySkus } from './ledger-locks.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import type { StockMetrics } from './stock-metrics.ts';

const intervalMaxMs = 1_000;
/** SKUs looked at in one step, and the rest before the next, so as not to crowd Redis. */
const pageSkus = 500;
const pageRestMs = 50;
/** Lines settled per SKU and step, and steps for one page. */
const settleMax = 500;
const stepsMax = 200;
const deadlineMs = 10_000;

export interface SettlePendingOptions {
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly pool: Pool;
  readonly busySkus: KnownBusySkus;
  readonly creditFenced: CreditFenced;
}

/** What a look at the pending entries of some SKUs came to. */
export interface Settled {
  /** Lines that were found, and how many of them were fenced. */
  readonly lines: number;
  readonly fenced: number;
  /** SKUs with more lines than one look takes. */
  readonly more: ReadonlySet<bigint>;
  /** SKUs whose lines stay, because their rows are locked or something else about them fails. */
  readonly stuck: ReadonlyMap<bigint, unknown>;
}

/** SKUs that are settled at once; each takes a connection to the ledger for a moment. */
const skusAtOnce = 3;

/**
 * Settles lines that passed a gate and are pending for at least `ageMs`: what the ledger has is
 * removed from the list; what it does not have is barred there by a FENCED row first, so that a late
 * post is refused, and then given back at the gate. A SKU that cannot be settled now holds up no other.
 *
 * @throws Refusal if Redis or the ledger is away; asking again does no harm
 */
export async function settleEntries(
  options: SettlePendingOptions,
  skuIds: readonly bigint[],
  { ageMs, max }: { ageMs: number; max: number },
  deadline: Deadline,
): Promise<Settled> {
  const pending = [...(await readPending(options.connection, skuIds, { ageMs, max }))];
  const settled = { lines: 0, fenced: 0, more: new Set<bigint>(), stuck: new Map() };
  const settleSome = async (): Promise<void> => {
    for (let next = pending.shift(); next !== undefined; next = pending.shift()) {
      const [skuId, entries] = next;
      try {
        const done = await settleSku(options, skuId, entries, deadline);
        settled.lines += done.lines;
        settled.fenced += done.fenced;
        if (done.busy) settled.stuck.set(skuId, undefined);
        else if (entries.length === max) settled.more.add(skuId);
      } catch (error) {
        if (error instanceof Refusal) throw error;
        settled.stuck.set(skuId, error);
      }
    }
  };
  await Promise.all(Array.from({ length: skusAtOnce }, settleSome));
  return settled;
}

async function settleSku(
  { gate, pool, busySkus, creditFenced }: SettlePendingOptions,
  skuId: bigint,
  entries: readonly PendingEntry[],
  deadline: Deadline,
): Promise<{ lines: number; fenced: number; busy: boolean }> {
  const chunk = entries.map((entry): FenceEntry => ({ ...entry, skuId }));
  const states = await fenceLines(pool, busySkus, chunk, deadline);
  const stateIs = (wanted: (state: HoldState | undefined) => boolean): FenceEntry[] =>
    chunk.filter((_, index) => wanted(states[index]));
  const barred = stateIs((state) => state === holdState.FENCED);
  const kept = stateIs((state) => state !== undefined && state !== holdState.FENCED);
  const keptIds = kept.map(({ orderId }) => orderId);
  if (keptIds.length > 0) await gate.settle(skuId, keptIds);
  await creditFenced(barred);
  return { lines: chunk.length, fenced: barred.length, busy: states.includes(undefined) };
}

/** Looks for pending entries that are too old, in one process for all copies. */
export function startSettlePending(
  options: SettlePendingOptions & {
    readonly keeper: Pick<Keeper, 'ours'>;
    readonly catalogue: SkuCatalogue;
    readonly settleAgeMs: number;
    readonly metrics: StockMetrics;
    readonly log: Log;
  },
): Loop {
  const { keeper, catalogue, settleAgeMs: ageMs, metrics, log } = options;
  const report = ({ stuck }: Settled): void => {
    for (const [skuId, err] of stuck) {
      if (err) log.error({ err, skuId: String(skuId) }, 'pending lines of a SKU cannot be settled');
    }
  };
  async function settlePage(page: readonly bigint[], signal: AbortSignal): Promise<void> {
    let skuIds = page;
    for (let step = 0; step < stepsMax && !signal.aborted; step += 1) {
      const deadline = Deadline.after(deadlineMs);
      const settled = await settleEntries(options, skuIds, { ageMs, max: settleMax }, deadline);
      metrics.fenced.inc(settled.fenced);
      if (settled.fenced > 0) log.info({ lines: settled.fenced }, 'pending lines were fenced');
      report(settled);
      skuIds = [...settled.more];
      if (skuIds.length === 0) return;
    }
  }

  return startLoop({
    name: 'settle-pending',
    intervalMs: Math.min(intervalMaxMs, ageMs / 4),
    log,
    async run(signal) {
      if (!keeper.ours()) return;
      const all = catalogue.all();
      for (let from = 0; from < all.length && !signal.aborted; from += pageSkus) {
        if (from > 0) await sleep(pageRestMs);
        await settlePage(all.slice(from, from + pageSkus), signal);
      }
    },
  });
}
