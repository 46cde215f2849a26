import type { Counter, Histogram } from 'prom-client';
import type { Metrics } from './metrics.ts';

export interface BatcherMetrics {
  readonly entries: Histogram<'hop'>;
  readonly queueAge: Histogram<'hop'>;
  readonly dropped: Counter<'hop'>;
}

/** The metrics that all batchers of a process share. */
export function createBatcherMetrics(metrics: Metrics): BatcherMetrics {
  return {
    entries: metrics.histogram(
      'batch_entries',
      'Entries in a batch, by hop.',
      [1, 2, 5, 10, 25, 50, 100, 250, 500],
      ['hop'],
    ),
    queueAge: metrics.histogram(
      'batch_queue_age_seconds',
      'How long the oldest entry of a batch had waited, by hop.',
      [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5],
      ['hop'],
    ),
    dropped: metrics.counter(
      'batch_dropped_total',
      'Entries whose time ran out while they waited, by hop.',
      ['hop'],
    ),
  };
}
