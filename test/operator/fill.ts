import { migrateAll } from '../../db/migrate.ts';
import { slotOfUser } from '../../services/order/order-id.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { mysqlUrl } from '../support/servers.ts';

/** Databases and tables per database of the filled installation. */
export const filledShards = { databases: 2, tables: 2 };
const slotCount = 1_024;
/** Orders of one millisecond: each of another slot, so that no id comes twice. */
const ordersPerMs = 10;

export interface FillOptions {
  readonly prefix: string;
  readonly orders: number;
  /** How long ago the newest order was made and last changed. */
  readonly ageSeconds: number;
  /** Another server than the one of the tests. */
  readonly url?: string;
  /** Users in each slot, who take turns; default 1. */
  readonly usersPerSlot?: number;
  /** Default: `filledShards`. */
  readonly shards?: { readonly databases: number; readonly tables: number };
}

export interface Filled {
  /** Every database of the server is within reach: \`prefix_stock\`.skus and so on. */
  readonly pool: Pool;
  /** The id of the n-th order. */
  orderId(n: number): Promise<string>;
  /** Where it is: \`prefix_order_1\` and 00. */
  placeOf(n: number): Promise<{ database: string; table: string }>;
  close(): Promise<void>;
}

/**
 * A whole installation with orders of every kind, in which everything agrees, made by INSERT … SELECT inside the server:
 * a million orders take seconds.
 *
 * What the n-th order is, by n modulo 20: 0–9 PAID, 10–11 PENDING, 12–15 CANCELLED (12 with a voided payment), 16 CANCELLED
 * with a late payment that was refunded, 17 PAID and refunded in part, 18 REFUNDED (every other one restocked), 19 a fence.
 */
export async function fill(options: FillOptions): Promise<Filled> {
  const { prefix, orders, ageSeconds, url = mysqlUrl, shards = filledShards } = options;
  const { usersPerSlot = 1 } = options;
  await migrateAll({ mysqlUrls: [url], databasePrefix: prefix, orderShards: shards });
  const database = `${prefix}_stock`;
  const pool = createPool(url, { database, connectionsMax: 4, multipleStatements: true });
  const fillDatabase = `${prefix}_fill`;
  await pool.query(`CREATE DATABASE ${fillDatabase}`);
  await makeUsers(pool, fillDatabase, usersPerSlot);
  await makeOrders(pool, fillDatabase, { orders, ageSeconds, usersPerSlot, shards });
  for (const statement of statements(prefix, shards)) await pool.query(statement);
  const one = async (n: number): Promise<Record<string, string>> => {
    const [rows] = await pool.query(`SELECT * FROM ${fillDatabase}.orders WHERE n = ${n}`);
    return (rows as Record<string, string>[])[0] as Record<string, string>;
  };
  return {
    pool,
    orderId: async (n) => String((await one(n)).order_id),
    async placeOf(n) {
      const { db, tbl } = await one(n);
      return { database: `${prefix}_order_${db}`, table: `0${tbl}` };
    },
    close: () => pool.end(),
  };
}

/** So many users for each slot, found by trying. */
async function makeUsers(pool: Pool, database: string, perSlot: number): Promise<void> {
  const found = new Map<number, bigint[]>(
    Array.from({ length: slotCount }, (_, slot) => [slot, []]),
  );
  for (let userId = 1n, missing = slotCount * perSlot; missing > 0; userId += 1n) {
    const users = found.get(slotOfUser(userId)) as bigint[];
    if (users.length === perSlot) continue;
    users.push(userId);
    missing -= 1;
  }
  await pool.query(
    `CREATE TABLE ${database}.users (slot INT NOT NULL, turn INT NOT NULL, user_id BIGINT NOT NULL, PRIMARY KEY (slot, turn))`,
  );
  const values = [...found].flatMap(([slot, users]) =>
    users.map((userId, turn) => `(${slot},${turn},${userId})`),
  );
  await pool.query(`INSERT INTO ${database}.users VALUES ${values.join(',')}`);
}

async function makeOrders(
  pool: Pool,
  database: string,
  { orders, ageSeconds, usersPerSlot, shards }: Required<Omit<FillOptions, 'prefix' | 'url'>>,
): Promise<void> {
  const digits =
    'SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9';
  await pool.query(`CREATE TABLE ${database}.digits (d INT PRIMARY KEY)`);
  await pool.query(`INSERT INTO ${database}.digits ${digits}`);
  const n = 'a.d + b.d * 10 + c.d * 100 + e.d * 1000 + f.d * 10000 + g.d * 100000';
  const d = `${database}.digits`;
  const { databases, tables } = shards;
  const firstMs = Date.now() - ageSeconds * 1_000 - Math.ceil(orders / ordersPerMs);
  const epochMs = Date.UTC(2025, 0, 1);
  await pool.query(
    `CREATE TABLE ${database}.orders (n INT PRIMARY KEY) AS
     SELECT n, k, u.slot, u.user_id, u.slot % ${databases} AS db, (u.slot DIV ${databases}) % ${tables} AS tbl,
       CAST(((${firstMs - epochMs} + n DIV ${ordersPerMs}) << 22) | (u.slot << 12) AS SIGNED) AS order_id,
       CASE WHEN k <= 9 OR k = 17 THEN 2 WHEN k <= 11 THEN 1 WHEN k <= 16 THEN 5 WHEN k = 18 THEN 4 ELSE 8 END AS status,
       CASE WHEN k <= 9 THEN 2 WHEN k <= 11 THEN 1 WHEN k <= 16 THEN 2 WHEN k = 17 THEN 3 WHEN k = 18 THEN 4 ELSE 1 END AS version,
       1 + n % 5 AS sku, 1 + n % 2 AS quantity, n % 3 = 0 AS two_lines,
       (1 + n % 2) * 1000 * (1 + n % 5) + IF(n % 3 = 0, 6000, 0) AS total,
       IF(k <= 9 OR k IN (17, 18), 1000 + n, 0) AS payment_id, n % 40 = 38 AS restocked,
       TIMESTAMPADD(MICROSECOND, ${firstMs % 1_000} * 1000 + (n DIV ${ordersPerMs}) * 1000, '${sqlTime(firstMs)}') AS time
     FROM (SELECT n, n % 20 AS k FROM (SELECT ${n} AS n FROM ${d} a, ${d} b, ${d} c, ${d} e, ${d} f, ${d} g WHERE g.d * 100000 < ${orders} AND f.d * 10000 < ${orders} AND e.d * 1000 < ${orders}) AS all_n
           WHERE n < ${orders}) AS numbers
     JOIN ${database}.users u ON u.slot = n % ${slotCount} AND u.turn = (n DIV ${slotCount}) % ${usersPerSlot}`,
  );
  await pool.query(
    `ALTER TABLE ${database}.orders ADD COLUMN refunded BIGINT AS (CASE WHEN k = 17 THEN 100 WHEN k = 18 THEN total ELSE 0 END) STORED,
     ADD KEY by_order (order_id), ADD KEY by_place (db, tbl, order_id)`,
  );
}

function sqlTime(ms: number): string {
  return new Date(Math.floor(ms / 1_000) * 1_000).toISOString().replace('T', ' ').slice(0, 19);
}

function statements(prefix: string, shards: typeof filledShards): string[] {
  const o = `${prefix}_fill.orders`;
  const result: string[] = [];
  for (let db = 0; db < shards.databases; db += 1) {
    for (let tbl = 0; tbl < shards.tables; tbl += 1) {
      result.push(
        ...orderStatements(`${prefix}_order_${db}`, `0${tbl}`, o, `db = ${db} AND tbl = ${tbl}`),
      );
    }
  }
  return [
    ...result,
    ...stockStatements(`${prefix}_stock`, o),
    ...paymentStatements(`${prefix}_payment`, o),
    ...eventStatements(`${prefix}_events`, `${prefix}_warehouse`, o),
  ];
}

function orderStatements(db: string, tbl: string, o: string, here: string): string[] {
  const expire = 'IF(status = 1, UTC_TIMESTAMP(3) + INTERVAL 1 DAY, time + INTERVAL 15 MINUTE)';
  const step = (version: number, from: string, to: string, where: string): string =>
    `INSERT INTO ${db}.order_history_${tbl} (order_id, version, from_status, to_status, close_reason, create_time)
     SELECT order_id, ${version}, ${from}, ${to}, IF(status = 5, 2, 0), time FROM ${o} WHERE ${here} AND ${where}`;
  return [
    `INSERT INTO ${db}.orders_${tbl} (order_id, user_id, request_id, fingerprint, status, close_reason, version, total_minor,
       currency, payment_id, create_time, expire_time, update_time, payment_begun, refunded_minor)
     SELECT order_id, IF(k = 19, 0, user_id), IF(k = 19, NULL, CONCAT('r', n)), IF(k = 19, NULL, UNHEX(LEFT(SHA2(n, 256), 32))), status,
       IF(status = 5, 2, 0), version, IF(k = 19, 0, total), IF(k = 19, '', 'EUR'), payment_id, time, ${expire}, time,
       payment_id > 0, refunded FROM ${o} WHERE ${here} ORDER BY order_id`,
    `INSERT INTO ${db}.order_items_${tbl} SELECT order_id, sku, quantity, 1000 * sku FROM ${o} WHERE ${here} AND k < 19 ORDER BY order_id`,
    `INSERT INTO ${db}.order_items_${tbl} SELECT order_id, 6, 1, 6000 FROM ${o} WHERE ${here} AND k < 19 AND two_lines = 1`,
    step(2, '1', 'IF(status = 5, 5, 2)', 'version >= 2'),
    step(3, '2', 'IF(k = 18, 3, 2)', 'version >= 3'),
    step(4, '3', '4', 'version >= 4'),
  ];
}

function stockStatements(db: string, o: string): string[] {
  const state =
    'CASE WHEN status = 1 THEN 1 WHEN restocked = 1 THEN 4 WHEN status IN (2, 4) THEN 2 ELSE 3 END';
  const holds = (sku: string, units: string, where: string): string =>
    `INSERT INTO ${db}.stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units, unit_price_minor, currency, state, create_time, update_time)
     SELECT order_id, ${sku}, user_id, CONCAT('r', n), UNHEX(LEFT(SHA2(n, 256), 32)), ${units}, 1000 * ${sku}, 'EUR', ${state}, time, time
     FROM ${o} WHERE ${where} ORDER BY order_id`;
  return [
    holds('sku', 'quantity', 'TRUE'),
    holds('6', '1', 'two_lines = 1'),
    `INSERT INTO ${db}.skus SELECT s.sku_id, CONCAT('Thing ', s.sku_id), 'EUR', 1000 * s.sku_id, NULL, NULL, 0, 0, 1,
       1000 + SUM(IF(h.state IN (1, 2), h.units, 0)), 1000, SUM(IF(h.state = 1, h.units, 0)), SUM(IF(h.state = 2, h.units, 0)),
       1, UNHEX(LEFT(SHA2('sku', 256), 32)), NOW(3), NOW(3)
     FROM (SELECT DISTINCT sku AS sku_id FROM ${o} UNION SELECT 6) s JOIN ${db}.stock_holds h ON h.sku_id = s.sku_id GROUP BY s.sku_id`,
    `UPDATE ${db}.watermark SET order_id = (SELECT MAX(order_id) FROM ${o})`,
    `UPDATE ${db}.sweep_cursor SET order_id = (SELECT MAX(order_id) FROM ${o})`,
  ];
}

function paymentStatements(db: string, o: string): string[] {
  const columns =
    'payment_id, order_id, user_id, request_id, provider, provider_reference, status, settlement, amount_minor, currency, captured_minor, captured_currency, expire_time, create_time, update_time';
  return [
    `INSERT INTO ${db}.payments (${columns}) SELECT payment_id, order_id, user_id, 'p', 'simulator', CONCAT('s', n), 2, 2, total, 'EUR', total, 'EUR', time, time, time
     FROM ${o} WHERE payment_id > 0`,
    `INSERT INTO ${db}.payments (${columns}) SELECT 1000 + n, order_id, user_id, 'p', 'simulator', CONCAT('s', n), 2, 3, total, 'EUR', total, 'EUR', time, time, time
     FROM ${o} WHERE k = 16`,
    `INSERT INTO ${db}.payments (${columns}) SELECT 1000 + n, order_id, user_id, 'p', 'simulator', CONCAT('s', n), 4, 0, total, 'EUR', NULL, NULL, time, time, time
     FROM ${o} WHERE k = 12`,
    `INSERT INTO ${db}.refunds (refund_id, payment_id, request_id, amount_minor, currency, status, reason, restock, told, create_time, update_time, whole)
     SELECT 1000 + n, 1000 + n, IF(k = 16, 'surplus', 'op:a'), IF(k = 17, 100, total), 'EUR', 3, '', restocked, 2, time, time, k <> 17 FROM ${o} WHERE k IN (16, 17, 18)`,
    `INSERT INTO ${db}.webhook_inbox (provider, event_id, event_type, payment_id, effect, body, create_time)
     SELECT 'simulator', CONCAT('e', n), 'paid', 1000 + n, 'applied', '{}', time FROM ${o} WHERE k = 0`,
    `INSERT INTO ${db}.closed_orders (order_id, create_time) SELECT order_id, time FROM ${o} WHERE k = 12`,
  ];
}

function eventStatements(db: string, warehouse: string, o: string): string[] {
  const name = "ELT(status, 'PENDING', 'PAID', 'REFUNDING', 'REFUNDED', 'CANCELLED')";
  const facts = (sku: string, quantity: string, where: string): string =>
    `INSERT INTO ${warehouse}.order_line_facts SELECT order_id, ${sku}, version, user_id, ${name}, IF(status = 5, 'EXPIRED', ''),
       ${quantity}, 1000 * ${sku}, total, refunded, 'EUR', payment_id, time, time FROM ${o} WHERE k < 19 AND ${where} ORDER BY order_id`;
  return [
    `INSERT INTO ${db}.counted_orders (order_id, version, user_id, status, total_minor, refunded_minor, currency, update_time)
     SELECT order_id, version, user_id, status, total, refunded, 'EUR', time FROM ${o} WHERE k < 19 ORDER BY order_id`,
    `INSERT INTO ${db}.user_statistics (user_id, currency, orders, paid, cancelled, refunded, paid_minor, refunded_minor, update_time)
     SELECT user_id, 'EUR', COUNT(*), SUM(status = 2), SUM(status = 5), SUM(status = 4), SUM(IF(status IN (2, 4), total, 0)), SUM(refunded), NOW(3)
     FROM ${o} WHERE k < 19 GROUP BY user_id`,
    `INSERT INTO ${db}.confirmation_mails (order_id, user_id, payload, attempts, next_time, sent_time, create_time)
     SELECT order_id, user_id, '', 1, NULL, time, time FROM ${o} WHERE status IN (2, 4) ORDER BY order_id`,
    facts('sku', 'quantity', 'TRUE'),
    facts('6', '1', 'two_lines = 1'),
  ];
}
