import { order as orderState } from '../audit/states.ts';
import type { Database } from '../stores.ts';
import { existingOrders } from './orphaned-holds.ts';
import { type PrunedTable, type Pruning, rest, stepRowsMax } from './pruning.ts';
import { remove, type WritableDatabase } from './writable-database.ts';

/**
 * Removes webhooks that were taken in long ago: a provider repeats one for three days at most, and one that came again would
 * find its payment settled.
 */
export async function removeWebhooks(pruning: Pruning): Promise<void> {
  const { stores, writable, cutoffs } = pruning;
  const condition = `create_time < '${cutoffs.closed}'`;
  await removeWhere(pruning, stores.payment, writable?.payment, 'webhook_inbox', condition);
}

/**
 * Removes mails that were sent long ago. Their rows keep an event that comes again from sending a second mail, and events
 * stay in the topic for a week. What was given up stays until somebody has seen to it.
 */
export async function removeMails(pruning: Pruning): Promise<void> {
  const { stores, writable, cutoffs } = pruning;
  const { closed } = cutoffs;
  const condition = `create_time < '${closed}' AND sent_time < '${closed}'`;
  await removeWhere(pruning, stores.events, writable?.events, 'confirmation_mails', condition);
}

async function removeWhere(
  pruning: Pruning,
  database: Database,
  writable: WritableDatabase | undefined,
  table: PrunedTable,
  condition: string,
): Promise<void> {
  pruning.progress.show(table);
  if (writable === undefined) {
    const [row] = await database.rows(`SELECT COUNT(*) FROM ${table} WHERE ${condition}`);
    pruning.count(table, Number(row?.[0]));
    return;
  }
  for (let removed = stepRowsMax; removed === stepRowsMax; ) {
    removed = await writable.step((connection) =>
      remove(
        connection,
        `DELETE FROM ${table} WHERE ${condition} ORDER BY create_time LIMIT ${stepRowsMax}`,
      ),
    );
    pruning.count(table, removed);
    await rest(pruning);
  }
}

/**
 * Removes the fences against payments of orders that are closed. Only an order that is still PENDING could be paid, so
 * its fence stays.
 */
export async function removeClosedOrders(pruning: Pruning): Promise<void> {
  const { stores, writable, cutoffs, progress } = pruning;
  progress.show('closed_orders');
  for (let after = '-1'; ; ) {
    const rows = await stores.payment.rows(
      `SELECT order_id FROM closed_orders WHERE order_id > ${after} AND create_time < '${cutoffs.closed}'
       ORDER BY order_id LIMIT ${stepRowsMax}`,
    );
    if (rows.length === 0) return;
    after = String(rows.at(-1)?.[0]);
    const ids = new Set(rows.map(([orderId]) => String(orderId)));
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
