import type { Counter, Gauge } from 'prom-client';
import { type ConsumerMetrics, createConsumerMetrics } from '../runtime/consumer-lag.ts';
import type { Metrics } from '../runtime/metrics.ts';

export interface EventsMetrics {
  /** Events handed to a consumer and carried out, repetitions included. */
  readonly applied: Counter<'consumer'>;
  readonly consumers: ConsumerMetrics;
  /** Attempts at mails: sent, failed (tried again later), given_up. */
  readonly mailSent: Counter<'status'>;
  readonly mailDue: Gauge;
  readonly breakerState: Gauge<'name'>;
}

export function createEventsMetrics(metrics: Metrics): EventsMetrics {
  return {
    applied: metrics.counter(
      'events_applied_total',
      'Events that a consumer carried out, repetitions included',
      ['consumer'],
    ),
    consumers: createConsumerMetrics(metrics),
    mailSent: metrics.counter('mail_sent_total', 'Attempts at confirmation mails, by status', [
      'status',
    ]),
    mailDue: metrics.gauge('mail_due', 'Confirmation mails that are due'),
    breakerState: metrics.gauge(
      'circuit_breaker_state',
      'Circuit breakers: 0 closed, 1 half-open, 2 open',
      ['name'],
    ),
  };
}
