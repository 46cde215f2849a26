import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { readBacklog } from '../runtime/outbox-relay.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDatabase } from './order-database.ts';
import type { OrderMetrics } from './order-metrics.ts';

/** How much may wait for Kafka before new orders are refused. */
export interface OutboxBounds {
  /** Rows (committed batches) in one database's outbox. */
  readonly rowsMax: number;
  /** Age of the oldest row, in milliseconds by MySQL's clock. */
  readonly ageMaxMs: number;
}

export interface OutboxGuard {
  /** @throws Refusal OVERLOADED while the outbox of a database is over its bounds */
  check(database: number): void;
  stop(): Promise<void>;
}

const lookEveryMs = 1_000;
const retryAfterMs = 5_000;

/** Watches the outboxes, so that events which Kafka does not take cannot fill a database. */
export function startOutboxGuard(
  databases: readonly OrderDatabase[],
  bounds: OutboxBounds,
  metrics: Pick<OrderMetrics, 'outboxRows' | 'outboxAgeSeconds'>,
  log: Log,
): OutboxGuard {
  const full = databases.map(() => false);

  async function look(database: OrderDatabase): Promise<void> {
    const { rows, oldestAgeMs } = await readBacklog(database.pool);
    const label = { database: String(database.index) };
    metrics.outboxRows.set(label, rows);
    metrics.outboxAgeSeconds.set(label, oldestAgeMs / 1_000);
    const isFull = rows >= bounds.rowsMax || oldestAgeMs >= bounds.ageMaxMs;
    if (isFull !== full[database.index]) {
      const { index } = database;
      if (isFull)
        log.warn({ database: index, rows, oldestAgeMs }, 'outbox full: orders are refused');
      else
        log.info({ database: index, rows, oldestAgeMs }, 'outbox drained: orders are taken again');
    }
    full[database.index] = isFull;
  }

  const loop = startLoop({
    name: 'outbox-guard',
    intervalMs: lookEveryMs,
    log,
    async run() {
      await Promise.all(databases.map(look));
    },
  });
  return {
    check(database) {
      if (!full[database]) return;
      throw new Refusal('OVERLOADED', 'Too many events wait for publication', { retryAfterMs });
    },
    stop: () => loop.stop(),
  };
}
