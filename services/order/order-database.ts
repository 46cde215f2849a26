import type { RowDataPacket } from 'mysql2/promise';
import { Batcher } from '../runtime/batcher.ts';
import { createDatabaseCircuit } from '../runtime/database-circuit.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import {
  createPool,
  type Pool,
  type PoolConnection,
  query,
  type SqlText,
  transaction,
} from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';

/** Pieces of single work at once, and waiting for their turn. */
const singlesInFlightMax = 5;
const singlesQueueDepthMax = 5_000;

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

/** One order database: its pool behind its circuit. */
export interface OrderDatabase {
  readonly index: number;
  readonly pool: Pool;
  /** Whether the database is known to be away. */
  readonly away: boolean;
  /** The time that the clocks agree on; undefined while they disagree. */
  now(): Date | undefined;
  /** One statement by itself. @throws Refusal DEPENDENCY_DOWN, or the server's error */
  query<Rows extends RowDataPacket[]>(sql: SqlText, deadline: Deadline): Promise<Rows>;
  /**
   * One transaction that begins with the shared lock on the map's row; `work` is given the time by
   * MySQL's clock, or while that is wrong the one that the clocks agree on.
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
  /** Knows which clocks are right. */
  readonly time: JudgedTime;
  readonly log: Log;
  readonly breakerState?: import('prom-client').Gauge<'name'>;
}

export function openOrderDatabase(options: OrderDatabaseOptions): OrderDatabase {
  const { index, url, database, connectionsMax, restSecondsMax, time, log } = options;
  const pool = createPool(url, {
    ...{ database, connectionsMax, restSecondsMax },
    multipleStatements: true,
  });
  const circuit = createDatabaseCircuit({
    ...{ name: `order.mysql.${index}`, url, database, log },
    ...(options.breakerState ? { state: options.breakerState } : {}),
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
    get away() {
      return circuit.open;
    },
    now() {
      const nowMs = time.nowMs();
      return nowMs === undefined ? undefined : new Date(nowMs);
    },
    inTurn: <Result>(work: () => Promise<Result>, deadline: Deadline) =>
      singles.add(work, deadline) as Promise<Result>,
    query: (sql, deadline) => circuit.fire(() => query(pool, sql, [], { deadline })),
    transaction: (transactionOptions, work) =>
      circuit.fire(() =>
        transaction(
          pool,
          { ...transactionOptions, opening: [lockSlotMap] },
          async (connection, [map]) => {
            if (map?.[0]?.version !== transactionOptions.mapVersion) throw new StaleSlotMap(index);
            const nowMs = time.corrected((map[0].now as Date).getTime());
            if (nowMs === undefined) throw new Refusal('DEPENDENCY_DOWN', 'The clocks disagree');
            return await work(connection, new Date(nowMs));
          },
        ),
      ),
    async stop() {
      await singles.close();
      await circuit.stop();
      await pool.end();
    },
  };
}

/** Keeps a move of slots away until the transaction ends, and tells MySQL's time. */
const lockSlotMap =
  'SELECT version, UTC_TIMESTAMP(3) AS now FROM slot_map WHERE id = 1 LOCK IN SHARE MODE';
