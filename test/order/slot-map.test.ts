import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createConnection } from 'mysql2/promise';
import { initialSlots, seedSlotMap } from '../../db/order/slot-map.ts';
import { slotOfOrder, slotOfUser } from '../../services/order/order-id.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const shards = { databases: 2, tables: 4 };
let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('slots', shards);
  order = await bench.start();
});
after(() => bench.stop());

test('an order is in the database and table of its user’s slot, and its id names that slot', async () => {
  const slots = initialSlots(shards);
  for (let user = 1n; user <= 40n; user += 1n) {
    const { order: made } = await order.client.createOrder(orderRequest(user, 'place'));
    const slot = slotOfUser(user);
    assert.equal(slotOfOrder(made?.orderId ?? 0n), slot);
    const [row] = await bench.orderRows(`order_id = ${made?.orderId}`);
    assert.deepEqual([row?.database, row?.table], slots[slot]);
  }
});

test('seeding again changes nothing; another layout or database is refused, naming both', async () => {
  const connection = await createConnection({
    uri: mysqlUrl,
    database: `${bench.prefix}_order_1`,
  });
  try {
    await seedSlotMap(connection, shards, 1);
    await assert.rejects(
      seedSlotMap(connection, { databases: 4, tables: 8 }, 1),
      /laid out as 2x4 .* 4x8 is configured/,
    );
    await assert.rejects(
      seedSlotMap(connection, shards, 0),
      /is order database 1, but it is configured as order database 0/,
    );
  } finally {
    await connection.end();
  }
});

test('after a slot has moved, its orders go to the new place and none to the old one', async () => {
  const user = 77n;
  const slot = slotOfUser(user);
  const slots = initialSlots(shards).map(([database, table], index) =>
    index === slot ? [1 - database, (table + 1) % shards.tables] : [database, table],
  );
  const version = order.shards.version + 1;
  for (const database of [0, 1]) {
    await bench.sql(
      database,
      `UPDATE slot_map SET version = ${version}, slots = '${JSON.stringify(slots)}' WHERE id = 1`,
    );
  }
  // The process may still hold the old map: its transaction meets the new version and routes again.
  const { order: made } = await order.client.createOrder(orderRequest(user, 'moved'));
  const [row] = await bench.orderRows(`order_id = ${made?.orderId}`);
  assert.deepEqual([row?.database, row?.table], slots[slot]);
  assert.equal(order.shards.version, version);
});

test('a database whose map is behind takes no orders until it has caught up', async () => {
  const user = 78n;
  const database = order.shards.databaseOf(slotOfUser(user));
  const version = order.shards.version;
  await bench.sql(database, `UPDATE slot_map SET version = ${version - 1} WHERE id = 1`);
  await assert.rejects(order.client.createOrder(orderRequest(user, 'behind')), {
    reason: 'OUTCOME_UNKNOWN',
  });
  assert.equal((await bench.orderRows(`user_id = ${user}`)).length, 0);
  await bench.sql(database, `UPDATE slot_map SET version = ${version} WHERE id = 1`);
  const { order: made } = await order.client.createOrder(orderRequest(user, 'behind'));
  assert.equal(made?.userId, user);
});

test('a new map reaches an idle process without an order', async () => {
  const version = order.shards.version + 1;
  for (const database of [0, 1]) {
    await bench.sql(database, `UPDATE slot_map SET version = ${version} WHERE id = 1`);
  }
  await eventually(() => order.shards.version === version, 'the map is read again');
});
