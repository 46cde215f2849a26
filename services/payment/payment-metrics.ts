import type { Counter, Gauge } from 'prom-client';
import { type BatcherMetrics, createBatcherMetrics } from '../runtime/batcher.ts';
import type { Metrics } from '../runtime/metrics.ts';

/** Work that waits for a loop: telling order of a payment, asking the provider, refunding. */
export type WorkKind = 'record' | 'poll' | 'refund';

export interface PaymentMetrics {
  readonly created: Counter<'status'>;
  readonly webhooks: Counter<'effect'>;
  readonly refunds: Counter<'status'>;
  readonly workDue: Gauge<'kind'>;
  readonly workAgeSeconds: Gauge<'kind'>;
  readonly breakerState: Gauge<'name'>;
  readonly hops: BatcherMetrics;
}

export function createPaymentMetrics(metrics: Metrics): PaymentMetrics {
  return {
    created: metrics.counter('payment_create_total', 'Requests to create a payment, by outcome', [
      'status',
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
    workAgeSeconds: metrics.gauge(
      'payment_work_age_seconds',
      'How long the oldest row has been due, by kind of work',
      ['kind'],
    ),
    breakerState: metrics.gauge(
      'circuit_breaker_state',
      'Circuit breakers: 0 closed, 1 half-open, 2 open',
      ['name'],
    ),
    hops: createBatcherMetrics(metrics),
  };
}
