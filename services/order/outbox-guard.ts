import type { RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDatabase } from './order-database.ts';
import type { OrderMetrics } from './order-metrics.ts';

/** How much may wait for Kafka before new orders are refused. What Kafka refuses for good waits for nothing. */
export interface OutboxBounds {
  /** Rows (committed batches) in one database's outbox, counted by the span of their ids. */
  readonly rowsMax: number;
  /** Age of the oldest row, in milliseconds; a clock of MySQL's that runs ahead makes no row older. */
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
/** Rows set aside are counted up to here, so that looking stays cheap. */
const setAsideMax = 1_000;

/** Watches the outboxes, so that events which Kafka does not take cannot fill a database. */
export function startOutboxGuard(
  databases: readonly OrderDatabase[],
  bounds: OutboxBounds,
  metrics: Pick<OrderMetrics, 'outboxRows' | 'outboxAgeSeconds' | 'outboxSetAside'>,
  log: Log,
): OutboxGuard {
  const full = databases.map(() => false);

  async function look(database: OrderDatabase): Promise<void> {
    const { rows, oldestAgeMs, waiting, refused } = await readBacklog(database);
    const label = { database: String(database.index) };
    metrics.outboxRows.set(label, rows);
    metrics.outboxAgeSeconds.set(label, oldestAgeMs / 1_000);
    metrics.outboxSetAside.set({ ...label, state: 'waiting' }, waiting);
    metrics.outboxSetAside.set({ ...label, state: 'refused' }, refused);
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
      // A database that does not answer must not keep the look at the others from being finished.
      const looks = await Promise.allSettled(databases.map(look));
      const failed = looks.find(({ status }) => status === 'rejected');
      if (failed?.status === 'rejected') throw failed.reason;
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

interface Backlog {
  /** Rows that wait for publication, those that wait apart from the others among them. */
  readonly rows: number;
  readonly oldestAgeMs: number;
  /** Rows set aside, counted up to a bound. */
  readonly waiting: number;
  readonly refused: number;
}

/**
 * The span of ids, which is at least the number of rows: counting rows would read every payload,
 * and that once a second while there are most of them.
 */
async function readBacklog(database: OrderDatabase): Promise<Backlog> {
  const ageOf = (time: string): string =>
    `TIMESTAMPDIFF(MICROSECOND, ${time}, UTC_TIMESTAMP(3)) DIV 1000`;
  const [row] = await database.query<RowDataPacket[]>(
    `SELECT MAX(id) - MIN(id) + 1 AS row_count,
       (SELECT ${ageOf('create_time')} FROM outbox ORDER BY id LIMIT 1) AS age_ms,
       CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) AS now_ms
     FROM outbox`,
    Deadline.after(lookDeadlineMs),
  );
  const [aside] = await database.query<RowDataPacket[]>(
    `SELECT COUNT(next_time) AS waiting, COUNT(*) - COUNT(next_time) AS refused,
       ${ageOf('MIN(IF(next_time IS NULL, NULL, create_time))')} AS age_ms
     FROM ((SELECT next_time, create_time FROM outbox_set_aside FORCE INDEX (due)
            WHERE next_time IS NULL LIMIT ${setAsideMax})
           UNION ALL
           (SELECT next_time, create_time FROM outbox_set_aside FORCE INDEX (due)
            WHERE next_time IS NOT NULL ORDER BY next_time LIMIT ${setAsideMax})) AS aside`,
    Deadline.after(lookDeadlineMs),
  );
  const mysqlMs = Number(row?.now_ms);
  // Rows that were stored before MySQL's clock stepped forward only look old.
  const aheadMs = Math.max(0, mysqlMs - (database.now()?.getTime() ?? mysqlMs));
  const ageMs = Math.max(Number(row?.age_ms ?? 0), Number(aside?.age_ms ?? 0));
  const waiting = Number(aside?.waiting ?? 0);
  return {
    rows: Number(row?.row_count ?? 0) + waiting,
    oldestAgeMs: Math.max(0, ageMs - aheadMs),
    waiting,
    refused: Number(aside?.refused ?? 0),
  };
}
