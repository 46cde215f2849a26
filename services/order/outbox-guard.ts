import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDatabase } from './order-database.ts';
import type { OrderMetrics } from './order-metrics.ts';

/** How much may wait for Kafka before new orders are refused. */
export interface OutboxBounds {
  /** Rows (committed batches) in one database's outbox, counted by the span of their ids. */
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
const lookDeadlineMs = 2_000;
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
    const { rows, oldestAgeMs } = await readBacklog(database);
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

/**
 * The span of ids, which is at least the number of rows: counting rows would read every payload,
 * and that once a second while there are most of them.
 */
async function readBacklog(
  database: OrderDatabase,
): Promise<{ rows: number; oldestAgeMs: number }> {
  const [row] = await database.query<RowDataPacket[]>(
    `SELECT MAX(id) - MIN(id) + 1 AS row_count,
       (SELECT TIMESTAMPDIFF(MICROSECOND, create_time, UTC_TIMESTAMP(3)) DIV 1000
        FROM outbox ORDER BY id LIMIT 1) AS age_ms
     FROM outbox`,
    Deadline.after(lookDeadlineMs),
  );
  return { rows: Number(row?.row_count ?? 0), oldestAgeMs: Number(row?.age_ms ?? 0) };
}
