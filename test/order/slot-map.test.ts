import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { createConnection } from 'mysql2/promise';
import { initialSlots, type SlotPlace, seedSlotMap } from '../../db/order/slot-map.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { OrderResolution } from '../../gen/sluice/order/v1/order_service.ts';
import { RefusalReason } from '../../gen/sluice/stock/v1/refusal.ts';
import { createFenceOrder } from '../../services/order/fence-order.ts';
import type { OrderDatabase } from '../../services/order/order-database.ts';
import { composeOrderId, slotOfOrder, slotOfUser } from '../../services/order/order-id.ts';
import { createOrderReader } from '../../services/order/order-reader.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl } from '../support/servers.ts';
import { refusedOutcome } from './fake-stock.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const shards = { databases: 2, tables: 4 };
let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('slots', shards);
  order = await bench.start();
});
afterEach(async () => {
  failpoints.clear();
  bench.stock.script = () => undefined;
  await catchUp();
});
after(() => bench.stop());

async function readMap(database: number): Promise<{ version: number; slots: SlotPlace[] }> {
  const [row] = await bench.sql(database, 'SELECT version, slots FROM slot_map');
  return { version: Number(row?.version), slots: JSON.parse(row?.slots) };
}

async function writeMap(database: number, version: number, slots: SlotPlace[]): Promise<void> {
  await bench.sql(
    database,
    `UPDATE slot_map SET version = ${version}, slots = '${JSON.stringify(slots)}'`,
  );
}

/** Both databases have the same map, and the process knows it. */
async function catchUp(): Promise<void> {
  const maps = [await readMap(0), await readMap(1)];
  const newest = maps.sort((a, b) => b.version - a.version)[0]!;
  for (const database of [0, 1]) await writeMap(database, newest.version, newest.slots);
  await order.shards.refresh(0, Deadline.after(5_000));
}

/** Where a slot goes that moves: into the other database and another table. */
function elsewhere([database, table]: SlotPlace): SlotPlace {
  return [1 - database, (table + 1) % shards.tables];
}

/** The map of one database after a move that the other one has not heard of yet. */
async function moveIn(database: number, slot: number): Promise<void> {
  const { version, slots } = await readMap(database);
  slots[slot] = elsewhere(slots[slot]!);
  await writeMap(database, version + 1, slots);
  await order.shards.refresh(database, Deadline.after(5_000));
}

/** Moves a slot with the row of one of its orders; the process hears of it if it is told to. */
async function moveWith(orderId: bigint, { tell = true } = {}): Promise<void> {
  const slot = slotOfOrder(orderId);
  const { version, slots } = await readMap(0);
  const [from, to] = [slots[slot]!, elsewhere(slots[slot]!)];
  const table = ([database, number]: SlotPlace): string =>
    `${bench.prefix}_order_${database}.orders_0${number}`;
  await bench.sql(
    0,
    `INSERT INTO ${table(to)} SELECT * FROM ${table(from)} WHERE order_id = ${orderId}`,
  );
  await bench.sql(0, `DELETE FROM ${table(from)} WHERE order_id = ${orderId}`);
  slots[slot] = to;
  for (const database of [0, 1]) await writeMap(database, version + 1, slots);
  if (tell) await order.shards.refresh(0, Deadline.after(5_000));
}

/** Runs `work`; the first call of a database's method meets `meanwhile` after it was routed there. */
async function interrupt<Result>(
  database: OrderDatabase,
  method: 'transaction' | 'inTurn',
  meanwhile: () => Promise<void>,
  work: () => Promise<Result>,
): Promise<Result> {
  const original = database[method].bind(database) as (...args: unknown[]) => Promise<unknown>;
  let met = false;
  const patched = async (...args: unknown[]): Promise<unknown> => {
    if (!met) {
      met = true;
      await meanwhile();
    }
    return await original(...args);
  };
  Object.assign(database, { [method]: patched });
  try {
    return await work();
  } finally {
    Object.assign(database, { [method]: original });
    assert.ok(met, 'the database was used');
  }
}

/** Users of one database, each of a slot of its own. */
function usersOf(database: number, count: number, from: bigint): bigint[] {
  const users = new Map<number, bigint>();
  for (let user = from; users.size < count; user += 1n) {
    const slot = slotOfUser(user);
    if (order.shards.databaseOf(slot) === database && !users.has(slot)) users.set(slot, user);
  }
  return [...users.values()];
}

async function create(userId: bigint, requestId: string): Promise<bigint> {
  const { order: made } = await order.client.createOrder(orderRequest(userId, requestId));
  return made?.orderId ?? 0n;
}

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

test('what was routed by one map is written by it, whatever map is read meanwhile', async () => {
  for (const [what, write] of [
    ['an order', (userId: bigint) => create(userId, 'routed')],
    ['a fence', (userId: bigint) => resolveStray(userId)],
  ] as const) {
    const [userId = 0n] = usersOf(0, 1, what === 'an order' ? 5_000n : 6_000n);
    const slot = slotOfUser(userId);
    const place = (await readMap(0)).slots[slot];
    const orderId = await interrupt(
      order.shards.database(0),
      'transaction',
      () => moveIn(1, slot),
      () => write(userId),
    );
    const [row] = await bench.orderRows(`order_id = ${orderId}`);
    assert.deepEqual([row?.database, row?.table], place, what);
    await catchUp();
  }
});

async function resolveStray(userId: bigint): Promise<bigint> {
  const orderId = composeOrderId(Date.now() - 60_000, slotOfUser(userId), 63, 0);
  await order.client.resolveOrders({ orderIds: [orderId] });
  return orderId;
}

test('an order is found by the map that its change was routed by, not by a newer one', async () => {
  const [userId = 0n] = usersOf(0, 1, 7_000n);
  const orderId = await create(userId, 'change');
  const { order: cancelled } = await interrupt(
    order.shards.database(0),
    'transaction',
    () => moveIn(1, slotOfUser(userId)),
    () => order.client.cancelOrder({ orderId, userId }),
  );
  assert.equal(cancelled?.status, OrderStatus.ORDER_STATUS_CANCELLED);
});

test('an order that moves while it is to be paid is paid in its new place', async () => {
  const [userId = 0n] = usersOf(0, 1, 8_000n);
  const orderId = await create(userId, 'pay');
  const amount = { currencyCode: 'EUR', minorUnits: 100n };
  const { record } = await interrupt(
    order.shards.database(0),
    'transaction',
    () => moveWith(orderId),
    () => order.client.recordPayment({ orderId, paymentId: 3n, amount }),
  );
  assert.equal(record, 1);
  const [row] = await bench.orderRows(`order_id = ${orderId}`);
  assert.deepEqual([row?.database, row?.status], [1, OrderStatus.ORDER_STATUS_PAID]);
});

test('an order that moves while the sweep asks for it is not called dead', async () => {
  const [userId = 0n] = usersOf(0, 1, 9_000n);
  const orderId = await create(userId, 'sweep');
  const ask = async (): Promise<unknown> =>
    (await order.client.resolveOrders({ orderIds: [orderId] })).resolutions[0];
  const move = (): Promise<void> => moveWith(orderId);
  const first = await interrupt(order.shards.database(0), 'inTurn', move, ask);
  assert.equal(first, OrderResolution.ORDER_RESOLUTION_UNDECIDED);
  assert.equal(await ask(), OrderResolution.ORDER_RESOLUTION_LIVE);
  assert.equal((await bench.orderRows(`order_id = ${orderId}`)).length, 1);
});

test('an order that has left the place where it is looked for is not said to be absent', async () => {
  const [userId = 0n] = usersOf(0, 1, 10_000n);
  const orderId = await create(userId, 'retry');
  const { shards: known } = order;
  const refresh = known.refresh.bind(known);
  known.refresh = async () => undefined;
  try {
    await moveWith(orderId, { tell: false });
    bench.stock.script = () =>
      refusedOutcome(RefusalReason.REFUSAL_REASON_SOLD_OUT, { lookUp: true });
    await assert.rejects(order.client.createOrder(orderRequest(userId, 'retry')), {
      reason: 'OUTCOME_UNKNOWN',
    });
    await assert.rejects(order.client.getOrder({ orderId, userId }), { reason: 'DEPENDENCY_DOWN' });
  } finally {
    known.refresh = refresh;
  }
  const look = () => order.client.getOrder({ orderId, userId }).catch(() => undefined);
  await eventually(async () => (await look())?.order?.orderId === orderId, 'it is found again');
  const again = await order.client.createOrder(orderRequest(userId, 'retry'));
  assert.deepEqual([again.order?.orderId, again.replayed], [orderId, true]);
});

test('orders that waited for one database are read where each of them is now', async () => {
  const [mover = 0n, stayer = 0n] = usersOf(0, 2, 11_000n);
  const ids = [await create(mover, 'read'), await create(stayer, 'read')];
  const reader = createOrderReader({ shards: order.shards, queueDepthMax: 100 });
  const database = order.shards.database(0);
  const query = database.query.bind(database);
  let goOn: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  let waiting = 0;
  database.query = (async (sql, deadline) => {
    // The process itself looks at this database too, at its own times.
    if (!String(sql).includes(String(ids[1]))) return await query(sql, deadline);
    waiting += 1;
    await held;
    return await query(sql, deadline);
  }) as typeof database.query;
  const read = (orderId: bigint) => reader.byId(orderId, Deadline.after(10_000));
  const first: Promise<unknown>[] = [];
  let both: ReturnType<typeof read>[] = [];
  try {
    for (const count of [1, 2]) {
      first.push(read(ids[1]!));
      await eventually(() => waiting === count, `${count} batches are under way`);
    }
    both = ids.map(read);
    database.query = query;
    await moveWith(ids[0]!);
  } finally {
    database.query = query;
    goOn();
    await Promise.allSettled(first);
  }
  const found = await Promise.all(both);
  assert.deepEqual(
    found.map((stored) => stored?.order.orderId),
    ids,
  );
  await reader.close();
});

test('ids that waited to be fenced in one database are fenced nowhere else', async (t) => {
  const [mover = 0n, stayer = 0n] = usersOf(0, 2, 12_000n);
  const strays = [mover, stayer].map((userId, index) =>
    composeOrderId(Date.now() - 60_000, slotOfUser(userId), 63, index),
  );
  const reader = createOrderReader({ shards: order.shards, queueDepthMax: 100 });
  const fences = createFenceOrder({ shards: order.shards, reader, queueDepthMax: 100 });
  let goOn: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (goOn = resolve));
  t.after(() => goOn());
  let reached = false;
  failpoints.set('order.before_abort_insert', async () => {
    reached = true;
    await held;
  });
  const fence = (orderId: bigint) => fences.fenceOrder(orderId, Deadline.after(10_000));
  const other = composeOrderId(Date.now() - 60_000, slotOfUser(stayer), 63, 2);
  const first = Promise.allSettled([fence(other)]);
  await eventually(() => reached, 'a batch is under way');
  const both = Promise.allSettled(strays.map(fence));
  await moveWith(strays[0]!);
  goOn();
  await both;
  await first;
  for (const orderId of strays) {
    const place = (await readMap(0)).slots[slotOfOrder(orderId)];
    const rows = await bench.orderRows(`order_id = ${orderId}`);
    for (const row of rows) assert.deepEqual([row.database, row.table], place);
  }
  await fences.close();
  await reader.close();
});
