import { hold } from '../audit/states.ts';
import { firstOrderIdAt, slotOfOrder } from '../order-id.ts';
import { isGivenBack } from './archive-orders.ts';
import { type Pruning, rest, stepRowsMax } from './pruning.ts';
import { remove } from './writable-database.ts';

/**
 * Removes old RELEASED and FENCED holds whose order is in no table: it was archived, or it never came and its fence went too.
 * What they barred, a late post under their id, the watermark bars by itself; so only ids at or below it go. HELD, SOLD and
 * RESTOCKED holds are never touched.
 */
export async function removeOrphanedHolds(pruning: Pruning): Promise<void> {
  const { stores, cutoffs, writable, progress } = pruning;
  progress.show('holds without an order');
  const [watermark] = await stores.stock.rows('SELECT order_id FROM watermark WHERE id = 1');
  const oldEnough = firstOrderIdAt(Date.parse(`${cutoffs.closed.replace(' ', 'T')}Z`)) - 1n;
  const dead = BigInt(String(watermark?.[0] ?? 0));
  const end = dead < oldEnough ? dead : oldEnough;
  for (let after: readonly [string, string] = ['-1', '-1']; ; ) {
    const [order, sku] = after;
    const rows = await stores.stock.rows(
      `SELECT order_id, sku_id, state, CONCAT(update_time) FROM stock_holds FORCE INDEX (PRIMARY)
       WHERE order_id >= ${order} AND order_id <= ${end} AND NOT (order_id = ${order} AND sku_id <= ${sku})
       ORDER BY order_id, sku_id LIMIT ${stepRowsMax}`,
    );
    if (rows.length === 0) return;
    after = [String(rows.at(-1)?.[0]), String(rows.at(-1)?.[1])];
    const old = rows.filter(
      ([, , state, time]) => isGivenBack({ state: Number(state) }) && String(time) < cutoffs.closed,
    );
    const existing = await existingOrders(pruning, new Set(old.map(([id]) => String(id))));
    const orphans = old.filter(([id]) => !existing.has(String(id)));
    if (orphans.length === 0) continue;
    if (writable === undefined) {
      pruning.count('stock_holds', orphans.length);
      continue;
    }
    const keys = orphans.map(([id, skuId]) => `(${id},${skuId})`);
    // Without the ids by themselves a single pair of them is looked for in all rows of the table.
    const sql = `DELETE FROM stock_holds WHERE order_id IN (${orphans.map(([id]) => id)})
      AND (order_id, sku_id) IN (${keys}) AND state IN (${hold.released},${hold.fenced})`;
    const removed = await writable.stock.step((connection) => remove(connection, sql));
    pruning.count('stock_holds', removed);
    await rest(pruning);
  }
}

/** Those of some orders that have a row in their table, whatever it says. */
export async function existingOrders(
  { stores }: Pick<Pruning, 'stores'>,
  orderIds: ReadonlySet<string>,
  condition = 'TRUE',
): Promise<Set<string>> {
  const byTable = new Map<string, string[]>();
  for (const orderId of orderIds) {
    const place = stores.slots[slotOfOrder(BigInt(orderId))] ?? [0, 0];
    const key = place.join('/');
    byTable.set(key, [...(byTable.get(key) ?? []), orderId]);
  }
  const found = new Set<string>();
  for (const [key, ids] of byTable) {
    const [database, table] = key.split('/');
    const rows = await stores.orders[Number(database)]?.rows(
      `SELECT order_id FROM orders_${table?.padStart(2, '0')} WHERE order_id IN (${ids}) AND ${condition}`,
    );
    for (const [orderId] of rows ?? []) found.add(String(orderId));
  }
  return found;
}
