import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import {
  createPool,
  type Pool,
  type PoolConnection,
  query as queryPool,
  type TransactionOptions,
  transaction as transactionOnPool,
} from '../runtime/mysql.ts';

/**
 * The database of payments. Single statements and transactions take turns on most of its connections, so that a crowd of
 * buyers waits instead of being refused; what may wait for a row that somebody holds takes turns of its own, so that a few
 * held rows do not stop everybody; the batches go to the pool directly, past the crowd.
 */
export interface PaymentDatabase {
  readonly pool: Pool;
  /** @throws Refusal OVERLOADED if the turn does not come in time; else what `work` throws */
  inTurn<Result>(
    work: () => Promise<Result>,
    deadline: Deadline,
    turn?: 'free' | 'waiting',
  ): Promise<Result>;
  close(): Promise<void>;
}

/** Kept for batches: two each of webhooks, of reports and of answers, and one for a KILL. */
const batchConnections = 7;
const queueDepthMax = 5_000;

export function openPaymentDatabase(
  url: string,
  options: {
    readonly database: string;
    readonly connectionsMax: number;
    readonly hops: BatcherMetrics;
  },
): PaymentDatabase {
  const { database, connectionsMax, hops } = options;
  const pool = createPool(url, { database, connectionsMax });
  const left = Math.max(2, connectionsMax - batchConnections);
  const waitingMax = Math.floor(left / 3) || 1;
  const turnsOf = (name: string, inFlightMax: number) =>
    new Batcher<() => Promise<unknown>, unknown>({
      ...{ name, inFlightMax, queueDepthMax, metrics: hops },
      entriesMax: 1,
      // Each has a connection: one that is slow is not to be joined by more than there are.
      slowMax: 0,
      run: async (works) => [await (works[0] as () => Promise<unknown>)()],
    });
  const turns = {
    free: turnsOf('payment_to_mysql', left - waitingMax),
    waiting: turnsOf('payment_to_mysql_waiting', waitingMax),
  };
  return {
    pool,
    inTurn: <Result>(
      work: () => Promise<Result>,
      deadline: Deadline,
      turn: 'free' | 'waiting' = 'free',
    ) => turns[turn].add(work, deadline) as Promise<Result>,
    async close() {
      await Promise.all([turns.free.close(), turns.waiting.close()]);
      await pool.end();
    },
  };
}

/** One statement, in turn. @throws as `query` of the runtime, and OVERLOADED */
export function query<Rows>(
  { pool, inTurn }: PaymentDatabase,
  sql: string,
  params: readonly unknown[],
  { deadline }: { readonly deadline: Deadline },
): Promise<Rows> {
  return inTurn(() => queryPool<Rows>(pool, sql, params, { deadline }), deadline);
}

/** One transaction that waits for nobody's rows, in turn. @throws as `transaction` of the runtime, and OVERLOADED */
export function transaction<Result>(
  { pool, inTurn }: PaymentDatabase,
  { deadline }: { readonly deadline: Deadline },
  work: (connection: PoolConnection) => Promise<Result>,
): Promise<Result> {
  return inTurn(() => transactionOnPool(pool, { deadline }, work), deadline);
}

/** A row that is held for longer than this many waits of a second is left to a later attempt. */
const waitsMax = 2;

/** One transaction that may wait for rows, in the turns of those. @throws as `transaction` of the runtime, and OVERLOADED */
export function waitingTransaction<Result>(
  { pool, inTurn }: PaymentDatabase,
  options: TransactionOptions,
  work: (connection: PoolConnection) => Promise<Result>,
): Promise<Result> {
  const { deadline } = options;
  const run = (): Promise<Result> =>
    transactionOnPool(pool, { attempts: waitsMax, ...options }, work);
  return inTurn(run, deadline, 'waiting');
}

/** One transaction of a batch, past those who wait for their turn. @throws as `transaction` of the runtime */
export function batchTransaction<Result>(
  { pool }: PaymentDatabase,
  options: TransactionOptions,
  work: (connection: PoolConnection) => Promise<Result>,
): Promise<Result> {
  return transactionOnPool(pool, options, work);
}
