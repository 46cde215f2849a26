import { setTimeout as sleep } from 'node:timers/promises';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import { Contradictions } from './contradictions.ts';
import type { Gate } from './gate.ts';
import type { GateConnection } from './gate-connection.ts';
import { type GateView, readGates } from './gate-view.ts';
import type { Keeper } from './keeper.ts';
import { gateSettings, listSkus, type SkuRow } from './ledger-skus.ts';
import { contradictsInUse } from './look-closely.ts';
import type { RequestResync } from './resync-queue.ts';
import type { SkuCatalogue } from './sku-catalogue.ts';
import type { StockMetrics } from './stock-metrics.ts';

const intervalMs = 1_000;
/** SKUs looked at in one step, and the rest between two steps: some commands for each, so as not to crowd Redis. */
const pageSkus = 500;
const pageRestMs = 50;
const deadlineMs = 5_000;
/** A closing that nobody has been heard of for this long was left behind. */
const closingFreshMs = 3_000;
/** Gates in use that are looked at closely in one round; a look takes some 100 ms. */
const closeLooksMax = 20;

export interface CheckGatesOptions {
  readonly keeper: Pick<Keeper, 'ours'>;
  readonly pool: Pool;
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly catalogue: SkuCatalogue;
  readonly requestResync: RequestResync;
  readonly metrics: StockMetrics;
  readonly log: Log;
}

/**
 * Looks at every gate once a second, in one process for all copies: what is missing, stale or of
 * another server is installed without waiting for a buyer, newer settings are copied, and a gate that
 * contradicts the ledger is installed anew. Also finds SKUs that other processes created.
 */
export function startCheckGates(options: CheckGatesOptions): Loop {
  const { keeper, catalogue, metrics, log } = options;
  let contradictions = new Contradictions();

  async function round(signal: AbortSignal): Promise<void> {
    const totals = { pending: 0, difference: 0, ageMs: 0 };
    const suspects: { sku: SkuRow; view: GateView }[] = [];
    let after = 0n;
    for (;;) {
      const page = { after, max: pageSkus };
      const skus = await listSkus(options.pool, page, Deadline.after(deadlineMs));
      catalogue.add(skus.map(({ skuId }) => skuId));
      const skuIds = skus.map(({ skuId }) => skuId);
      const views = skuIds.length > 0 ? await readGates(options.connection, skuIds) : [];
      for (const [index, sku] of skus.entries()) {
        const view = views[index] as GateView;
        if (checkOne(options, contradictions, sku, view)) suspects.push({ sku, view });
        totals.pending += view.pendingOrders;
        if (view.oldestPendingMs !== undefined) {
          const ageMs = options.connection.saleNowMs() - view.oldestPendingMs;
          totals.ageMs = Math.max(totals.ageMs, ageMs);
        }
        totals.difference += contradictions.restingDifference(sku.skuId);
      }
      if (skus.length < pageSkus || signal.aborted) break;
      await sleep(pageRestMs);
      after = skus.at(-1)?.skuId ?? after;
    }
    metrics.pendingOrders.set(totals.pending);
    metrics.pendingAgeSeconds.set({}, totals.ageMs / 1_000);
    metrics.gateDifference.set(totals.difference);
    for (const { sku, view } of suspects.slice(0, closeLooksMax)) {
      const contradicts = await contradictsInUse(options, sku).catch((err) => {
        log.warn({ err, skuId: String(sku.skuId) }, 'a gate could not be compared with the ledger');
        return false;
      });
      if (contradicts) options.requestResync(sku.skuId, 'contradiction', view.epoch);
    }
  }

  /** The keeper's figures are those of all copies. */
  function showNothing(): void {
    contradictions = new Contradictions();
    metrics.pendingOrders.set(0);
    metrics.pendingAgeSeconds.set({}, 0);
    metrics.gateDifference.set(0);
  }

  return startLoop({
    name: 'check-gates',
    intervalMs,
    log,
    async run(signal) {
      if (keeper.ours()) await round(signal);
      else showNothing();
    },
  });
}

/** Answers whether the gate is in use and to be looked at more closely. */
function checkOne(
  { gate, connection, requestResync, log }: CheckGatesOptions,
  contradictions: Contradictions,
  sku: SkuRow,
  view: GateView,
): boolean {
  const { skuId } = sku;
  if (view.loaded && view.epoch < sku.epoch) {
    requestResync(skuId, 'old_epoch');
    return false;
  }
  if (!view.loaded) {
    contradictions.forget(skuId);
    const closing = view.state === 'closing' && view.closingMs !== undefined;
    const ageMs = closing ? connection.redisNowMs() - (view.closingMs ?? 0) : closingFreshMs;
    if (ageMs < 0 || ageMs >= closingFreshMs) requestResync(skuId, 'not_loaded');
    return false;
  }
  if (view.settingsVersion < sku.settingsVersion) {
    gate.applySettings(skuId, gateSettings(sku)).catch((error) => {
      log.warn({ err: error }, 'settings could not be copied to a gate, will try again');
    });
  }
  const verdict = contradictions.look(skuId, view, sku.available);
  if (verdict === 'contradiction') requestResync(skuId, 'contradiction', view.epoch);
  return verdict === 'suspect';
}
