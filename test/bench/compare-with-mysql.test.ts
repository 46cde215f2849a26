import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { migrateAll } from '../../db/migrate.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { dropDatabases } from '../support/databases.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { compareWithMysql } from './compare-with-mysql.ts';
import { Recorder } from './recorder.ts';
import type { Sale } from './sale.ts';

const prefix = uniquePrefix('bench');
const orderShards = { databases: 2, tables: 2 };
const stack = {
  edgeUrl: '',
  orderAddress: '',
  stockAddress: '',
  mysqlUrls: [mysqlUrl],
  databasePrefix: prefix,
  orderShards,
  tokenSecret: '',
  paymentAddress: '',
  webhookKey: '',
  processes: [],
};
const sale: Sale = {
  skuIds: [50n],
  firstUserId: 100n,
  lastUserId: 199n,
  requestPrefix: 'bench-1-',
  requestOf: () => ({ userId: 100n, requestId: '', lines: [] }),
  userIndexOf: () => 0,
};
let orders: Pool[];
let stock: Pool;
let recorder: Recorder;

before(async () => {
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  const pool = (name: string): Pool =>
    createPool(mysqlUrl, { database: `${prefix}_${name}`, connectionsMax: 2 });
  orders = [pool('order_0'), pool('order_1')];
  stock = pool('stock');
});

after(async () => {
  await Promise.all([...orders, stock].map((pool) => pool.end()));
  await dropDatabases(prefix);
});

/** Two orders, in different databases, that were answered "created", and what they hold. */
beforeEach(async () => {
  recorder = new Recorder();
  for (const pool of orders) {
    for (const table of ['00', '01']) await pool.query(`DELETE FROM orders_${table}`);
  }
  await stock.query('DELETE FROM stock_holds');
  await stock.query('DELETE FROM skus');
  await insertOrder(0, 1_000n, 0);
  await insertOrder(1, 1_001n, 1);
  await stock.query(
    `INSERT INTO skus (sku_id, title, currency, unit_price_minor, limit_per_user, paused,
       settings_version, supplied, available, held, sold, epoch, creation_digest, create_time,
       update_time)
     VALUES (50, 'x', 'USD', 1, 0, 0, 1, 10, 8, 2, 0, 1, REPEAT('a', 16), NOW(3), NOW(3))`,
  );
  await insertHold(1_000n);
  await insertHold(1_001n);
  for (const orderId of [1_000n, 1_001n]) recorder.ok(recorder.next(), orderId, 1);
});

async function insertOrder(database: number, orderId: bigint, number: number): Promise<void> {
  await (orders[database] as Pool).query(
    `INSERT INTO orders_0${database} (order_id, user_id, request_id, status, create_time,
       expire_time, update_time)
     VALUES (?, 100, ?, 1, NOW(3), NOW(3), NOW(3))`,
    [orderId, `bench-1-${number}`],
  );
}

async function insertHold(orderId: bigint): Promise<void> {
  await stock.query(
    `INSERT INTO stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units,
       unit_price_minor, currency, state)
     VALUES (?, 50, 100, '', REPEAT('a', 16), 1, 1, 'USD', 1)`,
    [orderId],
  );
}

const compare = () => compareWithMysql(stack, sale, recorder, { settleMaxMs: 0 });

test('orders, holds and answers that agree are no problem', async () => {
  const { orders: count, holds, heldUnits, problems } = await compare();
  assert.deepEqual(problems, []);
  assert.deepEqual([count, holds, heldUnits], [2, 2, 2]);
});

test('an order of an unknown answer is counted and no problem', async () => {
  recorder.failed(recorder.next(), 'OUTCOME_UNKNOWN', 1);
  await insertOrder(0, 1_002n, 2);
  await insertHold(1_002n);
  await stock.query('UPDATE skus SET available = 7, held = 3');
  const { ordersOfUnknown, problems } = await compare();
  assert.equal(ordersOfUnknown, 1);
  assert.deepEqual(problems, []);
});

const faults: [name: string, cause: () => Promise<unknown>, problem: RegExp][] = [
  [
    'a created order that is missing',
    async () => {
      recorder.ok(recorder.next(), 1_002n, 1);
    },
    /1 orders answered "created" that are not in MySQL, such as number 2/,
  ],
  [
    'an order under another id than was answered',
    () => orders[0]?.query('UPDATE orders_00 SET order_id = 9') as Promise<unknown>,
    /1 orders answered under another id/,
  ],
  [
    'a refused request that has an order',
    async () => {
      recorder.failed(recorder.next(), 'SOLD_OUT', 1);
      await insertOrder(0, 1_002n, 2);
    },
    /1 refused requests with an order/,
  ],
  [
    'an order that was never sent',
    async () => {
      recorder.notSent(recorder.next());
      await insertOrder(0, 1_002n, 2);
    },
    /1 orders of requests that were never sent/,
  ],
  ['two orders of one request', () => insertOrder(1, 1_002n, 0), /1 requests with two orders/],
  ['a lost hold', () => stock.query('DELETE FROM stock_holds LIMIT 1'), /2 orders but 1 holds/],
  ['a hold too many', () => insertHold(1_003n), /2 orders but 3 holds/],
  [
    'a ledger that counts otherwise than its holds',
    () => stock.query('UPDATE skus SET held = 3, available = 7'),
    /2 units in holds but 3 held/,
  ],
];

for (const [name, cause, problem] of faults) {
  test(`${name} is told`, async () => {
    await cause();
    assert.match((await compare()).problems.join('\n'), problem);
  });
}
