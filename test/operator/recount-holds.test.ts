import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { RowDataPacket } from 'mysql2/promise';
import { migrateAll } from '../../db/migrate.ts';
import { recountHolds } from '../../services/operator/audit/recount-holds.ts';
import type { Row } from '../../services/operator/stores.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { dropDatabases } from '../support/databases.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';

const prefix = uniquePrefix('recount');
let pool: Pool;

/** SKUs, and how many holds which users have of them: many with few, and one with more than a page has rows. */
const holds: readonly [skuId: number, users: number, each: number][] = [
  [1, 10, 2],
  [2, 15_000, 2],
  [3, 1, 25_000],
  [3, 300, 1],
  [4, 0, 0],
  [5, 3, 1],
  [6, 21_000, 1],
];

before(async () => {
  await migrateAll({
    mysqlUrls: [mysqlUrl],
    databasePrefix: prefix,
    orderShards: { databases: 1, tables: 1 },
  });
  pool = createPool(mysqlUrl, { database: `${prefix}_stock`, connectionsMax: 2 });
  let orders = 0;
  for (const [index, [skuId, users, each]] of holds.entries()) {
    if (users === 0) continue;
    const rows = users * each;
    const numbers = `WITH RECURSIVE n AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM n WHERE n < ${rows - 1})`;
    await pool.query('SET SESSION max_recursive_iterations = 1000000').catch(() => undefined);
    await pool.query(
      `INSERT INTO stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units, unit_price_minor, currency, state)
       ${numbers} SELECT ${orders} + n + 1, ${skuId}, ${index * 100_000} + n DIV ${each}, '', REPEAT('x', 16), 1 + n % 3, 1, 'EUR', 1 + n % 5 FROM n`,
    );
    orders += rows;
  }
});
after(async () => {
  await pool?.end();
  await dropDatabases(prefix);
});

test('a recount page by page adds up to what one statement would, also for a user with more holds than a page', async () => {
  const statements: string[] = [];
  const read = async (sql: string): Promise<Row[]> => {
    statements.push(sql);
    const [rows] = await pool.query<RowDataPacket[]>({ sql, rowsAsArray: true });
    return rows as unknown as Row[];
  };
  const skus = [1, 2, 3, 4, 5, 6].map((skuId) => ({
    skuId: String(skuId),
    limit: skuId === 3 ? 100 : 5,
  }));
  const sums = await recountHolds(read, skus);
  const [rows] = await pool.query<RowDataPacket[]>(
    'SELECT sku_id, COUNT(*) AS holds, SUM(IF(state = 1, units, 0)) AS held, SUM(IF(state = 2, units, 0)) AS sold FROM stock_holds GROUP BY sku_id',
  );
  const expected = new Map(rows.map((row) => [String(row.sku_id), row]));
  for (const { skuId } of skus) {
    const { held, sold, holds: counted, overLimit } = sums.get(skuId) ?? assert.fail(skuId);
    const row = expected.get(skuId);
    const wanted = [row?.held ?? 0, row?.sold ?? 0, row?.holds ?? 0].map(Number);
    assert.deepEqual([Number(held), Number(sold), counted], wanted, `SKU ${skuId}`);
    assert.equal(overLimit.length, skuId === '3' ? 1 : 0, `SKU ${skuId}: over the limit`);
  }
  assert.equal(expected.size, 5);
  assert.ok(statements.length > 10, `${statements.length} statements`);
});
