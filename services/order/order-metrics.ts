import type { AgeGauge } from '../runtime/age-gauge.ts';
import { type BatcherMetrics, createBatcherMetrics } from '../runtime/batcher.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { type RefusalReason, refusalTable } from '../runtime/refusals.ts';

/** What became of a request to create an order. */
export type CreateStatus = 'success' | 'rejected' | 'failed' | 'unknown';

export interface OrderMetrics {
  /** Counts one request and the time it took, in seconds. */
  readonly created: (status: CreateStatus, seconds: number) => void;
  /** Orders refused before anything was done for them, because too many are under way. */
  readonly refusedAtDoor: import('prom-client').Counter;
  readonly admissionLimit: import('prom-client').Gauge;
  readonly underWay: import('prom-client').Gauge;
  readonly hops: BatcherMetrics;
  readonly breakerState: import('prom-client').Gauge<'name'>;
  /** Orders closed because their time was over. */
  readonly expired: import('prom-client').Counter;
  /** Age of the oldest order whose time is over, in seconds. */
  readonly expiryLagSeconds: AgeGauge<'database'>;
  readonly overdue: import('prom-client').Gauge<'database' | 'begun'>;
  readonly overdueProcessing: import('prom-client').Gauge<'database'>;
  readonly watchers: import('prom-client').Gauge;
  readonly outboxRows: import('prom-client').Gauge<'database'>;
  readonly outboxAgeSeconds: AgeGauge<'database'>;
  /** Rows of events that could not be published beside the others: refused for good, or waiting. */
  readonly outboxSetAside: import('prom-client').Gauge<'database' | 'state'>;
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
    refusedAtDoor: metrics.counter(
      'order_refused_at_door_total',
      'Requests to create an order that were refused because too many were under way',
    ),
    admissionLimit: metrics.gauge(
      'order_admission_limit',
      'Orders that may be under way at once; follows what they take',
    ),
    underWay: metrics.gauge('order_under_way', 'Orders that are being created'),
    hops: createBatcherMetrics(metrics),
    breakerState: metrics.gauge(
      'circuit_breaker_state',
      'Circuit breakers: 0 closed, 1 half-open, 2 open',
      ['name'],
    ),
    expired: metrics.counter('order_expired_total', 'Orders closed because their time was over'),
    expiryLagSeconds: metrics.age(
      'order_expiry_lag_seconds',
      'How long the time of the oldest unpaid order is over, but for those whose payment a bank is processing',
      ['database'],
    ),
    overdue: metrics.gauge(
      'order_overdue',
      'Unpaid orders whose time is over, counted up to a bound; begun: their payment has begun',
      ['database', 'begun'],
    ),
    overdueProcessing: metrics.gauge(
      'order_overdue_processing',
      'Unpaid orders whose time is over and whose payment a bank is processing, counted up to a bound',
      ['database'],
    ),
    watchers: metrics.gauge('order_watchers', 'Streams of WatchOrder that are open'),
    outboxRows: metrics.gauge('outbox_rows', 'Rows waiting for publication', ['database']),
    outboxAgeSeconds: metrics.age('outbox_age_seconds', 'Age of the oldest row that waits', [
      'database',
    ]),
    outboxSetAside: metrics.gauge(
      'outbox_set_aside',
      'Rows set aside, counted up to a bound: refused ones wait for an operator, waiting ones for Kafka',
      ['database', 'state'],
    ),
  };
}

/** The metric's status of a refusal; an error outside the catalogue counts as failed. */
export function statusOfRefusal(reason: RefusalReason | undefined): CreateStatus {
  if (reason === undefined) return 'failed';
  if (reason === 'OUTCOME_UNKNOWN') return 'unknown';
  return refusalTable[reason].business ? 'rejected' : 'failed';
}
