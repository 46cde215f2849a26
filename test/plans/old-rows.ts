import type { Pool } from '../../services/runtime/mysql.ts';
import { type Filled, fill } from '../operator/fill.ts';

/** Of each big table, about. */
export const oldRows = 200_000;
const daySeconds = 86_400;
/** Young enough that nothing of it is pruned. */
const ageSeconds = 20 * daySeconds;
/** Orders of the rest that are old enough to be pruned, made by moving copies of ids back. */
const agedOrders = 200;
const agedBy = 40 * daySeconds;
/** SKUs of sales that are over. */
const oldSkus = 2_000;
export const shards = { databases: 1, tables: 1 };

/**
 * An installation that has sold for long: 200,000 orders in one table with all that belongs to them, and as many rows in every
 * other table that grows. Everything agrees, and nothing is under way.
 */
export async function fillWithOldRows(url: string, prefix: string): Promise<Filled> {
  const filled = await fill({
    prefix,
    url,
    orders: oldRows,
    ageSeconds,
    shards,
    usersPerSlot: 100,
  });
  for (const statement of [...thicken(prefix), ...age(prefix)]) await filled.pool.query(statement);
  await analyze(filled.pool, prefix);
  return filled;
}

/** Tables of which orders alone do not make enough rows. */
function thicken(prefix: string): string[] {
  const o = `${prefix}_fill.orders`;
  const order = `${prefix}_order_0`;
  const stock = `${prefix}_stock`;
  const payment = `${prefix}_payment`;
  return [
    `INSERT INTO ${payment}.webhook_inbox (provider, event_id, event_type, payment_id, effect, body, create_time)
     SELECT 'simulator', CONCAT('f', n), 'paid', NULL, 'ignored', '{}', time FROM ${o}`,
    `INSERT IGNORE INTO ${payment}.closed_orders (order_id, create_time) SELECT order_id, time FROM ${o} WHERE k IN (5, 13, 14, 15, 16)`,
    // Refunds in part of other days' payments: each row is done, and nobody asks for it.
    `INSERT INTO ${payment}.refunds (refund_id, payment_id, request_id, amount_minor, currency, status, reason, restock, told, create_time, update_time, whole)
     SELECT 100000000 + n, 100000000 + n, 'op:a', 1, 'EUR', 3, '', 0, 2, time, time, 0 FROM ${o}`,
    `INSERT INTO ${stock}.stock_adjustments (request_id, sku_id, delta, create_time) SELECT CONCAT('a', n), 1, 0, time FROM ${o}`,
    `INSERT INTO ${stock}.skus SELECT 1000 + n, 'Over', 'EUR', 100, NULL, time, 0, 0, 1, 0, 0, 0, 0, 1, UNHEX(REPEAT('00', 16)), time, time
     FROM ${o} WHERE n < ${oldSkus}`,
    `INSERT INTO ${order}.archived_orders (order_id, user_id, status, close_reason, version, total_minor, currency, payment_id, refunded_minor,
       update_time, archive_time, body)
     SELECT order_id - (${2 * agedBy} * 1000 << 22), 0, 8, 0, 1, 0, '', 0, 0, time - INTERVAL ${2 * agedBy} SECOND, time,
       '{"items":[],"history":[]}' FROM ${o}`,
  ];
}

/** Some cancelled orders, with what belongs to them, that prune may take. */
function age(prefix: string): string[] {
  const shift = `(${agedBy} * 1000 << 22)`;
  const past = `INTERVAL ${agedBy} SECOND`;
  const some = `(SELECT order_id FROM ${prefix}_fill.orders WHERE k = 12 ORDER BY order_id LIMIT ${agedOrders}) some`;
  const order = `${prefix}_order_0`;
  return [
    `INSERT INTO ${order}.orders_00 (order_id, user_id, request_id, fingerprint, status, close_reason, version, total_minor, currency, payment_id,
       create_time, expire_time, update_time, payment_begun, refunded_minor)
     SELECT o.order_id - ${shift}, user_id, CONCAT('old', request_id), fingerprint, status, close_reason, version, total_minor, currency, 0,
       create_time - ${past}, expire_time - ${past}, update_time - ${past}, 0, 0
     FROM ${some} JOIN ${order}.orders_00 o ON o.order_id = some.order_id`,
    `INSERT INTO ${order}.order_items_00 SELECT i.order_id - ${shift}, sku_id, quantity, unit_price_minor
     FROM ${some} JOIN ${order}.order_items_00 i ON i.order_id = some.order_id`,
    `INSERT INTO ${order}.order_history_00 SELECT h.order_id - ${shift}, version, from_status, to_status, close_reason, create_time - ${past}
     FROM ${some} JOIN ${order}.order_history_00 h ON h.order_id = some.order_id`,
    `INSERT INTO ${prefix}_stock.stock_holds SELECT h.order_id - ${shift}, sku_id, user_id, request_id, fingerprint, units, unit_price_minor,
       currency, 3, create_time - ${past}, update_time - ${past}
     FROM ${some} JOIN ${prefix}_stock.stock_holds h ON h.order_id = some.order_id`,
    `INSERT INTO ${prefix}_payment.closed_orders SELECT order_id - ${shift}, UTC_TIMESTAMP(3) - ${past} FROM ${some}`,
    `INSERT INTO ${prefix}_payment.webhook_inbox (provider, event_id, event_type, payment_id, effect, body, create_time)
     SELECT 'simulator', CONCAT('g', order_id), 'paid', NULL, 'ignored', '{}', UTC_TIMESTAMP(3) - ${past} FROM ${some}`,
    `INSERT INTO ${prefix}_events.counted_orders (order_id, version, user_id, status, total_minor, refunded_minor, currency, update_time)
     SELECT c.order_id - ${shift}, version, user_id, status, total_minor, 0, currency, update_time - ${past}
     FROM ${some} JOIN ${prefix}_events.counted_orders c ON c.order_id = some.order_id`,
    `UPDATE ${prefix}_events.user_statistics s JOIN (SELECT user_id, COUNT(*) AS n FROM ${prefix}_events.counted_orders c
       WHERE order_id <= (SELECT MAX(order_id) - ${shift} FROM ${prefix}_fill.orders) GROUP BY user_id) old ON old.user_id = s.user_id
     SET s.orders = s.orders + old.n, s.cancelled = s.cancelled + old.n`,
    `INSERT INTO ${prefix}_warehouse.order_line_facts SELECT f.order_id - ${shift}, sku_id, version, user_id, status, close_reason, quantity,
       unit_price_minor, order_total_minor, order_refunded_minor, currency, payment_id, order_create_time - ${past}, event_time - ${past}
     FROM ${some} JOIN ${prefix}_warehouse.order_line_facts f ON f.order_id = some.order_id`,
  ];
}

/** The server plans by what it believes of the tables; it learns it later by itself. */
async function analyze(pool: Pool, prefix: string): Promise<void> {
  const [rows] = await pool.query(
    `SELECT CONCAT(table_schema, '.', table_name) AS name FROM information_schema.tables
     WHERE table_schema LIKE '${prefix}%' AND table_schema <> '${prefix}_fill'`,
  );
  const names = (rows as { name: string }[]).map(({ name }) => name);
  await pool.query(`ANALYZE TABLE ${names.join(',')}`);
}
