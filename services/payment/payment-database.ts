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
 * buyers waits instead of being refused; the batches of webhooks and answers go to the pool directly, past the crowd.
 */
export interface PaymentDatabase {
  readonly pool: Pool;
  /** @throws Refusal OVERLOADED if the turn does not come in time; else what `work` throws */
  inTurn<Result>(work: () => Promise<Result>, deadline: Deadline): Promise<Result>;
  close(): Promise<void>;
}

/** Kept for batches: two of webhooks, two of answers, and one for a KILL. */
const batchConnections = 5;
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
  const turns = new Batcher<() => Promise<unknown>, unknown>({
    name: 'payment_to_mysql',
    entriesMax: 1,
    inFlightMax: connectionsMax - batchConnections,
    queueDepthMax,
    metrics: hops,
    run: async (works) => [await (works[0] as () => Promise<unknown>)()],
  });
  return {
    pool,
    inTurn: <Result>(work: () => Promise<Result>, deadline: Deadline) =>
      turns.add(work, deadline) as Promise<Result>,
    async close() {
      await turns.close();
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

/** One transaction, in turn. @throws as `transaction` of the runtime, and OVERLOADED */
export function transaction<Result>(
  { pool, inTurn }: PaymentDatabase,
  { deadline }: { readonly deadline: Deadline },
  work: (connection: PoolConnection) => Promise<Result>,
): Promise<Result> {
  return inTurn(() => transactionOnPool(pool, { deadline }, work), deadline);
}

/** One transaction of a batch, past those who wait for their turn. @throws as `transaction` of the runtime */
export function batchTransaction<Result>(
  { pool }: PaymentDatabase,
  options: TransactionOptions,
  work: (connection: PoolConnection) => Promise<Result>,
): Promise<Result> {
  return transactionOnPool(pool, options, work);
}
