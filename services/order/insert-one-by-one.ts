import type { OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import {
  duplicateKeyErrno,
  lockWaitTimeoutErrno,
  mysqlErrno,
  type PoolConnection,
} from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { InsertOrdersOptions } from './insert-orders.ts';
import { type InsertOutcome, type NewOrder, orderOf } from './new-order.ts';
import type { OrderDatabase } from './order-database.ts';
import { eventOf, insertOutboxRow } from './order-rows.ts';
import { tableSuffix } from './order-shards.ts';
import { insertItemsSql, insertOrdersSql } from './order-statements.ts';
import { findTaken } from './taken-keys.ts';

/** A row that waits for a lock costs a second; with less time left the rest is given up. */
const rowMsMax = 1_500;
const deadlockErrno = 1213;

type RowFate = 'inserted' | 'taken' | 'failed';

/**
 * Inserts orders row by row, in one transaction with a savepoint for each, after the server refused
 * them together: the good rows are stored, the bad ones answered one by one.
 */
export async function insertOneByOne(
  options: InsertOrdersOptions,
  database: OrderDatabase,
  batch: readonly NewOrder[],
  outcomes: Map<NewOrder, InsertOutcome | Error>,
  deadline: Deadline,
): Promise<void> {
  const { shards, expiryMs, log, onCommit } = options;
  const rows = await database.transaction(
    { deadline, mapVersion: shards.version },
    async (connection, now) => {
      const fates: { entry: NewOrder; order: Order; fate: RowFate }[] = [];
      const messages: OutboxMessage[] = [];
      for (const entry of batch) {
        const order = orderOf(entry, now, expiryMs);
        let fate: RowFate = 'failed';
        if (deadline.leftMs() > rowMsMax) {
          const table = tableSuffix(shards.tableOf(entry.draft.slot));
          fate = await insertRow(connection, table, entry, order, (error) =>
            log.error({ err: error }, 'an order could not be stored'),
          );
        }
        if (fate === 'inserted') messages.push(eventOf(order));
        fates.push({ entry, order, fate });
      }
      if (messages.length > 0) await insertOutboxRow(connection, messages);
      return fates;
    },
  );
  onCommit(database.index);
  for (const { entry, order, fate } of rows) {
    if (fate === 'inserted') outcomes.set(entry, { kind: 'created', order });
    if (fate === 'failed') outcomes.set(entry, new Refusal('OUTCOME_UNKNOWN'));
  }
  const taken = rows.filter(({ fate }) => fate === 'taken').map(({ entry }) => entry);
  const answers = await findTaken(shards, database, taken, deadline);
  for (const [entry, outcome] of answers) outcomes.set(entry, outcome);
}

/** A savepoint that a lock timeout has taken away (an option of the server) fails the whole. */
async function insertRow(
  connection: PoolConnection,
  table: string,
  { draft }: NewOrder,
  order: Order,
  onBadRow: (error: unknown) => void,
): Promise<RowFate> {
  const row = [{ order, fingerprintHex: draft.fingerprintHex }];
  await connection.query('SAVEPOINT one_order');
  try {
    await connection.query(insertOrdersSql(table, row));
    await connection.query(insertItemsSql(table, row));
    return 'inserted';
  } catch (error) {
    const errno = mysqlErrno(error);
    if (errno === deadlockErrno) throw error;
    await connection.query('ROLLBACK TO SAVEPOINT one_order');
    if (errno === duplicateKeyErrno) return 'taken';
    if (errno !== lockWaitTimeoutErrno) onBadRow(error);
    return 'failed';
  }
}
