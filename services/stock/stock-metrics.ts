import { type Counter, type Gauge, Histogram } from 'prom-client';
import type { AgeGauge } from '../runtime/age-gauge.ts';
import { type BatcherMetrics, createBatcherMetrics } from '../runtime/batcher.ts';
import type { Metrics } from '../runtime/metrics.ts';

/** What became of one order's reservation. */
export type DeductStatus = 'success' | 'rejected' | 'failed' | 'unknown';

export interface StockMetrics {
  readonly deducted: Counter<'status'>;
  readonly batchEntries: Histogram<'hop'>;
  readonly hops: BatcherMetrics;
  /** For batchers of chunks: what is in a chunk only their `run` can count, into `batchEntries`. */
  readonly chunkHops: BatcherMetrics;
  readonly breakerState: Gauge<'name'>;
  readonly pendingAgeSeconds: AgeGauge<never>;
  readonly pendingOrders: Gauge;
  readonly gateDifference: Gauge;
  readonly auditBreaches: Gauge<'promise'>;
  readonly auditAgeSeconds: AgeGauge<never>;
  readonly resyncs: Counter<'cause'>;
  /** Set by the sweep: asked whenever the metric is read, so that it grows while the sweep stands. */
  readonly sweepLag: { ms: () => number };
  /** Set by the queue of installations, likewise. */
  readonly resyncLag: { ms: () => number };
  readonly sweepUndecided: Gauge;
  /** Holds that the ledger refuses to release. */
  readonly holdsSetAside: Gauge;
  /** SKUs whose rows another transaction keeps locked. */
  readonly busySkus: Gauge;
  /** Orders whose holds missed an event, by what the recheck made of them. */
  readonly rechecked: Counter<'move'>;
  readonly fenced: Counter;
  readonly credits: Counter<'result'>;
}

export function createStockMetrics(metrics: Metrics): StockMetrics {
  const hops = createBatcherMetrics(metrics);
  const sweepLag = { ms: () => 0 };
  metrics.gaugeOf(
    'stock_sweep_lag_seconds',
    'How far the check of holds against orders is behind the age at which it is due',
    () => sweepLag.ms() / 1_000,
  );
  const resyncLag = { ms: () => 0 };
  metrics.gaugeOf(
    'stock_resync_lag_seconds',
    'For how long a gate has been asked to be installed and is not',
    () => resyncLag.ms() / 1_000,
  );
  return {
    deducted: metrics.counter('stock_deduct_total', 'Reservations of orders, by outcome', [
      'status',
    ]),
    batchEntries: hops.entries,
    hops,
    chunkHops: {
      ...hops,
      entries: new Histogram({
        name: 'chunks',
        help: 'Not registered',
        labelNames: ['hop'],
        registers: [],
      }),
    },
    breakerState: metrics.gauge(
      'circuit_breaker_state',
      'Circuit breakers: 0 closed, 1 half-open, 2 open',
      ['name'],
    ),
    pendingAgeSeconds: metrics.age(
      'stock_pending_age_seconds',
      'Age of the oldest order that passed a gate and is not known to be in the ledger',
    ),
    pendingOrders: metrics.gauge('stock_pending_orders', 'Such orders, over all SKUs'),
    gateDifference: metrics.gauge(
      'stock_gate_difference_units',
      'Units by which gates and ledger differ, over all SKUs that are at rest',
    ),
    auditBreaches: metrics.gauge(
      'stock_audit_breaches',
      'SKUs whose holds break a promise, by promise; the same in every process',
      ['promise'],
    ),
    auditAgeSeconds: metrics.age(
      'stock_audit_age_seconds',
      'Since the last complete recount of the ledger began',
    ),
    resyncs: metrics.counter('stock_resync_total', 'Gates installed from the ledger, by cause', [
      'cause',
    ]),
    sweepLag,
    resyncLag,
    sweepUndecided: metrics.gauge(
      'stock_sweep_undecided',
      'Orders whose existence is not decided yet',
    ),
    holdsSetAside: metrics.gauge(
      'stock_holds_set_aside',
      'Orders that do not exist whose holds the ledger refuses to release; they are tried again',
    ),
    busySkus: metrics.gauge(
      'stock_busy_skus',
      'SKUs whose rows another transaction keeps locked; their orders are refused',
    ),
    rechecked: metrics.counter(
      'stock_recheck_mended_total',
      'Orders whose holds missed what became of the order and were released or sold by the recheck',
      ['move'],
    ),
    fenced: metrics.counter('stock_fenced_total', 'Pending lines settled by the loop'),
    credits: metrics.counter('stock_credit_total', 'Credits to gates, by result', ['result']),
  };
}
