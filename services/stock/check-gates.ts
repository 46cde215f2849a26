import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { Gate } from './gate.ts';
import type { GateConnection } from './gate-connection.ts';
import { type GateView, readGates } from './gate-view.ts';
import { gateSettings, listSkus, type SkuRow } from './ledger-skus.ts';
import type { ResyncCause } from './resync-queue.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import type { StockMetrics } from './stock-metrics.ts';

const intervalMs = 1_000;
const pageSkus = 500;
const deadlineMs = 5_000;
/** A closing that nobody has been heard of for this long was left behind. */
const closingFreshMs = 3_000;
/** Gate and ledger are read at two moments, so a difference counts only if it stays. */
const differentLooks = 3;
const soldOutLooks = 2;

export interface CheckGatesOptions {
  readonly pool: Pool;
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly catalogue: SkuCatalogue;
  readonly requestResync: (skuId: bigint, cause: ResyncCause) => void;
  readonly metrics: StockMetrics;
  readonly log: Log;
}

/**
 * Looks at every gate once a second: what is missing, stale or of another server is installed
 * without waiting for a buyer, newer settings are copied, and a gate that contradicts the ledger is
 * installed anew. Also finds SKUs that other processes created.
 */
export function startCheckGates(options: CheckGatesOptions): Loop & { healthy(): boolean } {
  const { catalogue, metrics, log } = options;
  const contradictions = new Contradictions();
  let healthy = false;

  async function round(): Promise<void> {
    const totals = { pending: 0, difference: 0, ageMs: 0 };
    let after = 0n;
    for (;;) {
      const page = { after, max: pageSkus };
      const skus = await listSkus(options.pool, page, Deadline.after(deadlineMs));
      catalogue.add(skus.map(({ skuId }) => skuId));
      const skuIds = skus.map(({ skuId }) => skuId);
      const views = skuIds.length > 0 ? await readGates(options.connection, skuIds) : [];
      for (const [index, sku] of skus.entries()) {
        const view = views[index] as GateView;
        checkOne(options, contradictions, sku, view);
        totals.pending += view.pendingOrders;
        if (view.oldestPendingMs !== undefined) {
          const ageMs = options.connection.redisNowMs() - view.oldestPendingMs;
          totals.ageMs = Math.max(totals.ageMs, ageMs);
        } else if (view.loaded) {
          totals.difference += Math.abs(Number(sku.available) - (view.available ?? 0));
        }
      }
      if (skus.length < pageSkus) break;
      after = skus.at(-1)?.skuId ?? after;
    }
    metrics.pendingOrders.set(totals.pending);
    metrics.pendingAgeSeconds.set(totals.ageMs / 1_000);
    metrics.gateDifference.set(totals.difference);
  }

  const loop = startLoop({
    name: 'check-gates',
    intervalMs,
    log,
    async run() {
      healthy = await round().then(
        () => true,
        (error) => {
          healthy = false;
          throw error;
        },
      );
    },
  });
  return { ...loop, healthy: () => healthy };
}

function checkOne(
  { gate, connection, requestResync, log }: CheckGatesOptions,
  contradictions: Contradictions,
  sku: SkuRow,
  view: GateView,
): void {
  const { skuId } = sku;
  if (view.loaded && view.epoch < sku.epoch) {
    requestResync(skuId, 'old_epoch');
    return;
  }
  if (!view.loaded) {
    contradictions.forget(skuId);
    const closing = view.state === 'closing' && view.closingMs !== undefined;
    const ageMs = closing ? connection.redisNowMs() - (view.closingMs ?? 0) : closingFreshMs;
    if (ageMs < 0 || ageMs >= closingFreshMs) requestResync(skuId, 'not_loaded');
    return;
  }
  if (view.settingsVersion < sku.settingsVersion) {
    gate.applySettings(skuId, gateSettings(sku)).catch((error) => {
      log.warn({ err: error }, 'settings could not be copied to a gate, will try again');
    });
  }
  if (contradictions.look(skuId, view, sku.available)) requestResync(skuId, 'contradiction');
}

/** Remembers how often a gate was seen with the same wrong figure while nothing was pending. */
export class Contradictions {
  readonly #seen = new Map<bigint, { gate: number; ledger: bigint; looks: number }>();

  forget(skuId: bigint): void {
    this.#seen.delete(skuId);
  }

  /** Whether gate and ledger contradict each other for good. */
  look(
    skuId: bigint,
    { available, pendingOrders }: Pick<GateView, 'available' | 'pendingOrders'>,
    ledger: bigint,
  ): boolean {
    const gate = available ?? 0;
    if (pendingOrders > 0 || BigInt(gate) === ledger) {
      this.#seen.delete(skuId);
      return false;
    }
    const before = this.#seen.get(skuId);
    const soldOut = gate <= 0 && ledger > 0n;
    // A sold-out gate turns everybody away; what the ledger has beside it need not stand still.
    const same = before?.gate === gate && (soldOut || before.ledger === ledger);
    const looks = same ? before.looks + 1 : 1;
    const contradicts = looks >= (soldOut ? soldOutLooks : differentLooks);
    if (contradicts) this.#seen.delete(skuId);
    else this.#seen.set(skuId, { gate, ledger, looks });
    return contradicts;
  }
}
