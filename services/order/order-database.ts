import type { RowDataPacket } from 'mysql2/promise';
import { Batcher } from '../runtime/batcher.ts';
import { type Breaker, createBreaker } from '../runtime/breaker.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import {
  createPool,
  mysqlErrno,
  type Pool,
  type PoolConnection,
  query,
  transaction,
} from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';

const probeDeadlineMs = 400;
/** Pieces of single work at once, and waiting for their turn. */
const singlesInFlightMax = 5;
const singlesQueueDepthMax = 5_000;
/** A healthy server answers any of our statements within this. */
const fairBudgetMs = 1_000;
/** Too many connections, shutting down, read-only, killed: this server does not serve us now. */
const lostServerErrnos = new Set([1040, 1053, 1290, 1836, 1927]);

/** The map that a transaction was routed by is not the database's: read it again and route again. */
export class StaleSlotMap extends Error {
  constructor(index: number) {
    super(`The slot map of order database ${index} has another version`);
    this.name = 'StaleSlotMap';
  }
}

export interface OrderTransactionOptions {
  readonly deadline: Deadline;
  /** The version of the slot map that led here. */
  readonly mapVersion: number;
  /** How often it may run when it loses a deadlock or a lock wait. */
  readonly attempts?: number;
}

/** One order database: its pool behind its breaker. */
export interface OrderDatabase {
  readonly index: number;
  readonly pool: Pool;
  readonly breaker: Breaker;
  /** One statement by itself. @throws Refusal DEPENDENCY_DOWN, or the server's error */
  query<Rows extends RowDataPacket[]>(sql: string, deadline: Deadline): Promise<Rows>;
  /**
   * One transaction that begins with the shared lock on the map's row; `work` is given MySQL's time.
   *
   * @throws StaleSlotMap before any change if the map's version is another one; Refusal
   *   OUTCOME_UNKNOWN if COMMIT was not answered; Refusal DEPENDENCY_DOWN if nothing was done; else
   *   what `work` threw (rolled back)
   */
  transaction<Result>(
    options: OrderTransactionOptions,
    work: (connection: PoolConnection, now: Date) => Promise<Result>,
  ): Promise<Result>;
  /**
   * Runs work that no batch carries, a few pieces at once, so that a crowd of them cannot take the
   * connections that the batches need. @throws Refusal OVERLOADED if its turn does not come in time
   */
  inTurn<Result>(work: () => Promise<Result>, deadline: Deadline): Promise<Result>;
  stop(): Promise<void>;
}

export interface OrderDatabaseOptions {
  readonly index: number;
  readonly url: string;
  readonly database: string;
  readonly connectionsMax: number;
  /** Seconds that a transaction may rest before the server ends it. */
  readonly restSecondsMax: number;
  readonly log: Log;
  readonly breakerState?: import('prom-client').Gauge<'name'>;
}

export function openOrderDatabase(options: OrderDatabaseOptions): OrderDatabase {
  const { index, url, database, connectionsMax, restSecondsMax, log, breakerState } = options;
  const pool = createPool(url, {
    ...{ database, connectionsMax, restSecondsMax },
    multipleStatements: true,
  });
  const breaker = createBreaker({
    name: `order.mysql.${index}`,
    log,
    ...(breakerState ? { state: breakerState } : {}),
    isConnectionLoss: (error) => error instanceof Refusal && error.reason === 'DEPENDENCY_DOWN',
    probe: async () => {
      await query(pool, 'SELECT 1', [], { deadline: Deadline.after(probeDeadlineMs) });
      return true;
    },
  });

  const singles = new Batcher<() => Promise<unknown>, unknown>({
    name: 'order_single',
    entriesMax: 1,
    inFlightMax: singlesInFlightMax,
    queueDepthMax: singlesQueueDepthMax,
    run: async ([work]) => [await work?.()],
  });

  return {
    index,
    pool,
    breaker,
    inTurn: <Result>(work: () => Promise<Result>, deadline: Deadline) =>
      singles.add(work, deadline) as Promise<Result>,
    query: (sql, deadline) => guarded(breaker, deadline, () => query(pool, sql, [], { deadline })),
    transaction: (transactionOptions, work) =>
      guarded(breaker, transactionOptions.deadline, () =>
        transaction(
          pool,
          { ...transactionOptions, opening: [lockSlotMap] },
          async (connection, [map]) => {
            if (map?.[0]?.version !== transactionOptions.mapVersion) throw new StaleSlotMap(index);
            return await work(connection, map[0].now as Date);
          },
        ),
      ),
    async stop() {
      await singles.close();
      breaker.stop();
      await pool.end();
    },
  };
}

/** Keeps a move of slots away until the transaction ends, and tells MySQL's time. */
const lockSlotMap =
  'SELECT version, UTC_TIMESTAMP(3) AS now FROM slot_map WHERE id = 1 LOCK IN SHARE MODE';

/**
 * Only losses of the server count as failures. A lost race, a refused row, and a caller who left too
 * little time say nothing about the server: one hasty caller must not open the circuit for all.
 */
async function guarded<Result>(
  breaker: Breaker,
  deadline: Deadline,
  call: () => Promise<Result>,
): Promise<Result> {
  const hasty = deadline.leftMs() < fairBudgetMs;
  const outcome = await breaker.fire(async () => {
    try {
      return { result: await call() };
    } catch (error) {
      const counts =
        error instanceof Refusal
          ? !(hasty && deadline.passed)
          : lostServerErrnos.has(mysqlErrno(error) ?? 0);
      if (counts) throw error;
      return { error };
    }
  });
  if ('error' in outcome) throw outcome.error;
  return outcome.result;
}
