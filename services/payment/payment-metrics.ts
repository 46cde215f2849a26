import type { Counter, Gauge } from 'prom-client';
import type { AgeGauge } from '../runtime/age-gauge.ts';
import { type BatcherMetrics, createBatcherMetrics } from '../runtime/batcher.ts';
import type { Metrics } from '../runtime/metrics.ts';

/** Work that waits for a loop: telling order of a payment, asking the provider, refunding, a webhook that was set aside. */
export type WorkKind = 'record' | 'poll' | 'refund' | 'webhook';

export interface PaymentMetrics {
  readonly created: Counter<'status'>;
  readonly closed: Counter<'result'>;
  readonly webhooks: Counter<'effect'>;
  readonly refunds: Counter<'status'>;
  readonly workDue: Gauge<'kind'>;
  readonly workAgeSeconds: AgeGauge<'kind'>;
  readonly breakerState: Gauge<'name'>;
  readonly providerPace: Gauge<'purpose'>;
  readonly providerTurnedAway: Counter<'purpose'>;
  readonly hops: BatcherMetrics;
}

export function createPaymentMetrics(metrics: Metrics): PaymentMetrics {
  return {
    created: metrics.counter('payment_create_total', 'Requests to create a payment, by outcome', [
      'status',
    ]),
    closed: metrics.counter('payment_close_total', 'Requests to close an order, by result', [
      'result',
    ]),
    webhooks: metrics.counter('payment_webhook_total', 'Webhooks, by what they came to', [
      'effect',
    ]),
    refunds: metrics.counter('payment_refund_total', 'Refunds asked for and ended, by status', [
      'status',
    ]),
    workDue: metrics.gauge('payment_work_due', 'Rows whose time has come, by kind of work', [
      'kind',
    ]),
    workAgeSeconds: metrics.age(
      'payment_work_age_seconds',
      'How long the oldest row has been due, by kind of work',
      ['kind'],
    ),
    breakerState: metrics.gauge(
      'circuit_breaker_state',
      'Circuit breakers: 0 closed, 1 half-open, 2 open',
      ['name'],
    ),
    providerPace: metrics.gauge(
      'payment_provider_pace_per_second',
      'Calls that the provider is sent in a second at most, by purpose; lowered while it turns calls away',
      ['purpose'],
    ),
    providerTurnedAway: metrics.counter(
      'payment_provider_turned_away_total',
      'Calls that the provider did not take for its rate or a lock, by purpose',
      ['purpose'],
    ),
    hops: createBatcherMetrics(metrics),
  };
}
