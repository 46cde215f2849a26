import { type BatcherMetrics, createBatcherMetrics } from '../runtime/batcher.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { type RefusalReason, refusalTable } from '../runtime/refusals.ts';

/** What became of a request to create an order. */
export type CreateStatus = 'success' | 'rejected' | 'failed' | 'unknown';

export interface OrderMetrics {
  /** Counts one request and the time it took, in seconds. */
  readonly created: (status: CreateStatus, seconds: number) => void;
  readonly hops: BatcherMetrics;
  readonly breakerState: import('prom-client').Gauge<'name'>;
  readonly outboxRows: import('prom-client').Gauge<'database'>;
  readonly outboxAgeSeconds: import('prom-client').Gauge<'database'>;
}

const createSeconds = [0.01, 0.05, 0.1, 0.2, 0.5, 1, 2];

export function createOrderMetrics(metrics: Metrics): OrderMetrics {
  const total = metrics.counter('order_create_total', 'Requests to create an order, by outcome', [
    'status',
  ]);
  const duration = metrics.histogram(
    'order_create_duration_seconds',
    'Time from taking a request to create an order to its answer',
    createSeconds,
  );
  const counters = {
    success: total.labels('success'),
    rejected: total.labels('rejected'),
    failed: total.labels('failed'),
    unknown: total.labels('unknown'),
  };
  return {
    created(status, seconds) {
      counters[status].inc();
      duration.observe(seconds);
    },
    hops: createBatcherMetrics(metrics),
    breakerState: metrics.gauge(
      'circuit_breaker_state',
      'Circuit breakers: 0 closed, 1 half-open, 2 open',
      ['name'],
    ),
    outboxRows: metrics.gauge('outbox_rows', 'Rows waiting for publication', ['database']),
    outboxAgeSeconds: metrics.gauge('outbox_age_seconds', 'Age of the oldest row that waits', [
      'database',
    ]),
  };
}

/** The metric's status of a refusal; an error outside the catalogue counts as failed. */
export function statusOfRefusal(reason: RefusalReason | undefined): CreateStatus {
  if (reason === undefined) return 'failed';
  if (reason === 'OUTCOME_UNKNOWN') return 'unknown';
  return refusalTable[reason].business ? 'rejected' : 'failed';
}
