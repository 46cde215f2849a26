import { order as orderState } from '../audit/states.ts';
import { firstOrderIdAt } from '../order-id.ts';
import type { Database, Row } from '../stores.ts';
import { existingOrders } from './orphaned-holds.ts';
import { type PrunedTable, type Pruning, rest, stepRowsMax } from './pruning.ts';
import { remove, type WritableDatabase } from './writable-database.ts';

/**
 * Removes webhooks that were taken in long ago: a provider repeats one for three days at most, and one that came again would
 * find its payment settled.
 */
export async function removeWebhooks(pruning: Pruning): Promise<void> {
  const { stores, writable } = pruning;
  await removeOld(pruning, stores.payment, writable?.payment, {
    table: 'webhook_inbox',
    key: ['provider', 'event_id'],
    condition: 'TRUE',
  });
}

/**
 * Removes mails that were sent long ago. Their rows keep an event that comes again from sending a second mail, and events
 * stay in the topic for a week. What was given up stays until somebody has seen to it.
 */
export async function removeMails(pruning: Pruning): Promise<void> {
  const { stores, writable, cutoffs } = pruning;
  await removeOld(pruning, stores.events, writable?.events, {
    table: 'confirmation_mails',
    key: ['order_id'],
    condition: `sent_time < '${cutoffs.closed}'`,
  });
}

interface OldRows {
  readonly table: PrunedTable;
  /** The columns of the primary key: one, or one and another within it. */
  readonly key: readonly [string] | readonly [string, string];
  /** What else a row must be, beside old. */
  readonly condition: string;
}

/** Looks at the old rows page by page, oldest first, and removes those of each page that may go. */
async function removeOld(
  pruning: Pruning,
  database: Database,
  writable: WritableDatabase | undefined,
  { table, key, condition }: OldRows,
): Promise<void> {
  pruning.progress.show(table);
  const columns = key.join(', ');
  const isOld = `create_time < '${pruning.cutoffs.closed}'`;
  for (let last: Row | undefined; ; ) {
    const page: Row[] = await database.rows(
      `SELECT ${columns}, CONCAT(create_time), ${condition} FROM ${table} FORCE INDEX (by_time)
       WHERE ${isOld}${last === undefined ? '' : ` AND ${behind(key, last)}`}
       ORDER BY create_time, ${columns} LIMIT ${stepRowsMax}`,
    );
    const may = page.filter((row) => Number(row.at(-1)) === 1);
    if (writable === undefined) pruning.count(table, may.length);
    else if (may.length > 0) {
      const removed = await writable.step(async (connection) => {
        let rows = 0;
        for (const keys of keysOf(key, may)) {
          const sql = `DELETE FROM ${table} WHERE ${keys} AND ${isOld} AND ${condition}`;
          rows += await remove(connection, sql);
        }
        return rows;
      });
      pruning.count(table, removed);
      await rest(pruning);
    }
    if (page.length < stepRowsMax) return;
    last = page.at(-1);
  }
}

/** What comes after a row in the order of time and key; the range of the index begins with the row's time. */
function behind(key: OldRows['key'], row: Row): string {
  const time = `'${row.at(-2)}'`;
  const values = key.map((_, at) => literalOf(key, row[at]));
  return `create_time >= ${time} AND (create_time > ${time} OR (${key.join(', ')}) > (${values.join(', ')}))`;
}

/** Conditions that name rows by their keys, each a range of the primary key. */
function keysOf(key: OldRows['key'], rows: readonly Row[]): string[] {
  const [outer, inner] = key;
  if (inner === undefined) return [`${outer} IN (${rows.map((row) => literalOf(key, row[0]))})`];
  return [...Map.groupBy(rows, (row) => literalOf(key, row[0]))].map(
    ([value, same]) =>
      `${outer} = ${value} AND ${inner} IN (${same.map((row) => literalOf(key, row[1]))})`,
  );
}

/** A key of one column is a number, one of two is text. */
function literalOf(key: OldRows['key'], value: Row[number] | undefined): string {
  if (key.length === 1) return String(value);
  return `x'${Buffer.from(value as string | Buffer).toString('hex')}'`;
}

/**
 * Removes the fences against payments of orders that are closed. Only an order that is still PENDING could be paid, so
 * its fence stays.
 */
export async function removeClosedOrders(pruning: Pruning): Promise<void> {
  const { stores, writable, cutoffs, progress } = pruning;
  progress.show('closed_orders');
  // A fence is made after its order, so younger ids need not be read. Bounded by rows read, not by rows found.
  const end = firstOrderIdAt(Date.parse(`${cutoffs.closed.replace(' ', 'T')}Z`));
  for (let after = '-1'; ; ) {
    const rows = await stores.payment.rows(
      `SELECT order_id, create_time < '${cutoffs.closed}' FROM closed_orders
       WHERE order_id > ${after} AND order_id < ${end} ORDER BY order_id LIMIT ${stepRowsMax}`,
    );
    if (rows.length === 0) return;
    after = String(rows.at(-1)?.[0]);
    const ids = new Set(rows.filter(([, isOld]) => Number(isOld) === 1).map(([id]) => String(id)));
    const isOpen = `status IN (${orderState.pending},${orderState.queued})`;
    for (const orderId of await existingOrders(pruning, ids, isOpen)) ids.delete(orderId);
    if (ids.size === 0) continue;
    if (writable === undefined) {
      pruning.count('closed_orders', ids.size);
      continue;
    }
    const sql = `DELETE FROM closed_orders WHERE order_id IN (${[...ids]})`;
    const removed = await writable.payment.step((connection) => remove(connection, sql));
    pruning.count('closed_orders', removed);
    await rest(pruning);
  }
}
