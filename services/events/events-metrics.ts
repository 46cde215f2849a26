import type { Counter, Gauge } from 'prom-client';
import { type ConsumerMetrics, createConsumerMetrics } from '../runtime/consumer-lag.ts';
import type { Metrics } from '../runtime/metrics.ts';

export interface EventsMetrics {
  /** Events handed to a consumer and carried out, repetitions included. */
  readonly applied: Counter<'consumer'>;
  readonly consumers: ConsumerMetrics;
  /** Orders whose newest event never came, and which were asked for. */
  readonly caughtUp: Counter<'consumer'>;
  /** Such orders that could not take effect, in each pass. */
  readonly catchUpFailed: Counter<'consumer'>;
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
    caughtUp: metrics.counter(
      'catch_up_applied_total',
      'Orders whose newest event did not come and that were asked for, by consumer',
      ['consumer'],
    ),
    catchUpFailed: metrics.counter(
      'catch_up_failed_total',
      'Orders that were asked for and could not take effect, by consumer',
      ['consumer'],
    ),
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
