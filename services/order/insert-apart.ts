import type { OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import {
  duplicateKeyErrno,
  isLockWait,
  literal,
  mysqlErrno,
  type PoolConnection,
} from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { eventsOf, insertRows, type OrderBatch, UnwritableOrder } from './insert-rows.ts';
import { type InsertOutcome, type NewOrder, orderOf } from './new-order.ts';
import type { OrderDatabase } from './order-database.ts';
import { insertOutboxSql } from './order-rows.ts';
import type { SlotRoutes } from './order-shards.ts';
import { findTaken } from './taken-keys.ts';

export interface InsertApartOptions {
  readonly expiryMs: number;
  readonly log: Log;
  readonly onCommit: (database: number) => void;
}

/** A row that waits for a lock costs a second. */
const lockWaitMsMax = 1_100;
const deadlockErrno = 1213;

type RowFate = 'inserted' | 'taken' | 'failed';

/** What one transaction has learned so far. */
interface Progress extends OrderBatch {
  readonly connection: PoolConnection;
  readonly deadline: Deadline;
  readonly log: Log;
  readonly fates: Map<NewOrder, RowFate>;
  /** Of what was inserted. */
  readonly events: OutboxMessage[];
  lockMet: boolean;
}

/**
 * Inserts orders that were refused together, in one transaction: in halves, and in halves
 * of those that are refused, down to the bad rows, so that the good ones are stored and each bad one
 * is answered by itself.
 *
 * @param routes what led them to this database
 * @param errno why the server refused them; 0 if one of them could not be written
 * @throws as a transaction of the database; then none of them is stored, or all are unknown
 */
export async function insertApart(
  { expiryMs, log, onCommit }: InsertApartOptions,
  routes: SlotRoutes,
  database: OrderDatabase,
  batch: readonly NewOrder[],
  errno: number,
  deadline: Deadline,
): Promise<Map<NewOrder, InsertOutcome | Error>> {
  const { orders, fates } = await database.transaction(
    { deadline, mapVersion: routes.version },
    async (connection, now) => {
      const made = new Map(batch.map((entry) => [entry, orderOf(entry, now, expiryMs)]));
      const progress: Progress = {
        routes,
        connection,
        deadline,
        log,
        orders: made,
        fates: new Map(),
        events: [],
        lockMet: false,
      };
      await insertParts(progress, batch, errno);
      const { events } = progress;
      if (events.length > 0) await connection.query(literal(insertOutboxSql(events)));
      return progress;
    },
  );
  onCommit(database.index);
  const taken = batch.filter((entry) => fates.get(entry) === 'taken');
  const outcomes = new Map<NewOrder, InsertOutcome | Error>(
    await findTaken(routes, database, taken, deadline),
  );
  for (const [entry, order] of orders) {
    if (fates.get(entry) === 'inserted') outcomes.set(entry, { kind: 'created', order });
    else if (!outcomes.has(entry)) outcomes.set(entry, new Refusal('OUTCOME_UNKNOWN'));
  }
  return outcomes;
}

/** Row by row where one of them waits for a lock, because every statement with it waits again. */
async function insertParts(
  progress: Progress,
  part: readonly NewOrder[],
  errno: number,
): Promise<void> {
  const size = isLockErrno(errno) ? 1 : Math.ceil(part.length / 2);
  for (let start = 0; start < part.length; start += size) {
    await insertPart(progress, part.slice(start, start + size));
  }
}

async function insertPart(progress: Progress, part: readonly NewOrder[]): Promise<void> {
  const { connection, deadline, fates } = progress;
  if (progress.lockMet && deadline.leftMs() < lockWaitMsMax) {
    for (const entry of part) fates.set(entry, 'failed');
    return;
  }
  // A lock timeout that ended the transaction (an option of the server) took the savepoint with it:
  // then going back to it fails, and with it the whole.
  await connection.query('SAVEPOINT part');
  let errno: number;
  try {
    const events = eventsOf(progress, part);
    await insertRows(connection, progress, part);
    for (const entry of part) fates.set(entry, 'inserted');
    progress.events.push(...events);
    return;
  } catch (error) {
    errno = mysqlErrno(error) ?? 0;
    const isOfRow = errno !== 0 || error instanceof UnwritableOrder;
    if (!isOfRow || errno === deadlockErrno) throw error;
    await connection.query('ROLLBACK TO SAVEPOINT part');
    if (part.length === 1) reportBadRow(progress, errno, error);
  }
  if (isLockErrno(errno)) progress.lockMet = true;
  if (part.length > 1) await insertParts(progress, part, errno);
  else fates.set(part[0] as NewOrder, errno === duplicateKeyErrno ? 'taken' : 'failed');
}

function isLockErrno(errno: number): boolean {
  return isLockWait({ errno });
}

function reportBadRow({ log }: Progress, errno: number, error: unknown): void {
  if (errno === duplicateKeyErrno || isLockErrno(errno)) return;
  log.error({ err: error }, 'an order could not be stored');
}
