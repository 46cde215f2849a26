import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import type { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { startCatchUp } from '../../services/events/catch-up.ts';
import { createConfirmationMails } from '../../services/events/confirmation-mail.ts';
import { createEventsMetrics } from '../../services/events/events-metrics.ts';
import { firstOrderIdAt } from '../../services/events/order-clock.ts';
import { knownEvent, newestByOrder } from '../../services/events/order-event.ts';
import { DatabaseAway, type OrderStates } from '../../services/events/order-states.ts';
import {
  mailProjection,
  type Projection,
  statisticsProjection,
  warehouseProjection,
} from '../../services/events/projections.ts';
import { createUserStatistics } from '../../services/events/user-statistics.ts';
import { createMysqlWarehouse, createWarehouseFacts } from '../../services/events/warehouse.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { EventPacer } from '../../services/runtime/event-pacer.ts';
import type { Loop } from '../../services/runtime/loop.ts';
import { createMetrics, type Metrics } from '../../services/runtime/metrics.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import {
  facts,
  lifeOf,
  mailedOrders,
  openStores,
  recount,
  type Stores,
  silent,
  statistics,
} from './support.ts';

// Projections are compared with the orders, without Kafka. The order service is a fake that keeps them in memory.

const bounds = { withinMs: 90_000 };
const hourMs = 3_600_000;
const databases = 2;
let stores: Stores;
let registry: Metrics;
let metrics: ReturnType<typeof createEventsMetrics>;
/** The orders as they are, by id, newest events of their lives. */
const orders = new Map<bigint, OrderEvent>();
const lists: { database: number; after: bigint; until: bigint }[] = [];
const away = new Set<number>();
let isServiceAway = false;
let loops: Loop[] = [];

before(async () => {
  stores = await openStores('catch_up');
});
after(() => stores?.close());

beforeEach(async () => {
  for (const table of [
    'counted_orders',
    'user_statistics',
    'confirmation_mails',
    'catch_up_cursors',
  ])
    await stores.pool.query(`DELETE FROM ${table}`);
  await stores.warehouse.query('DELETE FROM order_line_facts');
  orders.clear();
  lists.length = 0;
  away.clear();
  isServiceAway = false;
  registry = createMetrics('test');
  metrics = createEventsMetrics(registry);
});
afterEach(async () => {
  await Promise.all(loops.map((loop) => loop.stop()));
  loops = [];
});

const databaseOf = (orderId: bigint): number => Number((orderId >> 12n) % BigInt(databases));

const states: OrderStates = {
  async list({ databaseIndex, afterOrderId, untilOrderId, pageSize, newestFirst }) {
    assert.ok(newestFirst);
    if (isServiceAway) throw new Refusal('DEPENDENCY_DOWN');
    lists.push({ database: databaseIndex, after: afterOrderId, until: untilOrderId });
    const answer = { databaseCount: databases, unavailable: away.has(databaseIndex) };
    if (answer.unavailable) return { ...answer, orders: [], reachedOrderId: untilOrderId + 1n };
    const inRange = [...orders.values()]
      .filter(({ orderId }) => orderId > afterOrderId && orderId <= untilOrderId)
      .filter(({ orderId }) => databaseOf(orderId) === databaseIndex)
      .sort((a, b) => (a.orderId < b.orderId ? 1 : -1));
    const page = inRange.slice(0, Math.min(pageSize, 300));
    const last = page.length < inRange.length ? page.at(-1)?.orderId : undefined;
    return { ...answer, orders: page, reachedOrderId: last ?? afterOrderId };
  },
  async read(orderIds) {
    if (orderIds.some((orderId) => away.has(databaseOf(orderId)))) {
      throw new DatabaseAway(orderIds.length);
    }
    return orderIds.flatMap((orderId) => orders.get(orderId) ?? []);
  },
  close() {},
};

function projections(): Record<'statistics' | 'warehouse' | 'mail', Projection> {
  const { pool } = stores;
  const warehouse = createMysqlWarehouse(stores.warehouse);
  const mails = createConfirmationMails(pool, () => undefined);
  return {
    statistics: statisticsProjection('user-statistics', createUserStatistics(pool), pool),
    warehouse: warehouseProjection('warehouse', createWarehouseFacts(warehouse), warehouse),
    mail: mailProjection('confirmation-mail', mails, pool),
  };
}

function start(projection: Projection, pacer = new EventPacer(undefined)): void {
  const { pool } = stores;
  loops.push(
    startCatchUp({ pool, order: states, projection, pacer, ageMs: 1_000, metrics, log: silent }),
  );
}

/** Orders whose ids are of some moment, with the newest event of their lives. */
function newOrders(count: number, ageMs: number, kind?: bigint): OrderEvent[] {
  const first = firstOrderIdAt(Date.now() - ageMs);
  const made: OrderEvent[] = [];
  for (let at = 0; made.length < count; at += 1) {
    const orderId = first + BigInt(at) * 4_097n;
    if (kind !== undefined && orderId % 5n !== kind) continue;
    const [newest] = newestByOrder(lifeOf(orderId)) as [OrderEvent];
    orders.set(orderId, newest);
    made.push(newest);
  }
  return made;
}

const same = (a: object, b: object): boolean =>
  JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());

async function metric(name: string): Promise<number> {
  const text = await registry.registry.metrics();
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

const wasPaid = ({ status }: OrderEvent): boolean =>
  ([2, 3, 4] as number[]).includes(status satisfies OrderStatus);

test('what never came is learnt from the orders, recent and old, in both databases', async () => {
  const events = [...newOrders(900, 10_000), ...newOrders(100, 5 * hourMs)];
  const all = projections();
  for (const projection of Object.values(all)) start(projection);
  await eventually(
    async () => same(await statistics(stores.pool), recount(events)),
    'the statistics have all of it',
    bounds,
  );
  await eventually(
    async () => Object.keys(await facts(stores.warehouse)).length === 2 * events.length,
    'the warehouse has all lines',
    bounds,
  );
  const paid = events.filter(wasPaid).map(({ orderId }) => orderId);
  await eventually(
    async () => (await mailedOrders(stores.pool)).length === paid.length,
    'the mails are noted',
    bounds,
  );
  assert.deepEqual(new Set(lists.map(({ database }) => database)), new Set([0, 1]));
  // What is there is asked for no more.
  const applied = await metric('catch_up_applied_total');
  const { length } = lists;
  await eventually(() => lists.length >= length + 12, 'it is compared again and again', bounds);
  assert.equal(await metric('catch_up_applied_total'), applied);
  assert.equal(applied, 2 * events.length + paid.length);
});

test('an older version is replaced, and a newer one stays', async () => {
  const [behind, ahead] = newOrders(2, 20_000, 4n) as [OrderEvent, OrderEvent];
  const { statistics: projection } = projections();
  const { handle } = projection;
  const first = lifeOf(behind.orderId).slice(0, 1);
  const known = [...first, { ...ahead, version: 9 }].map(knownEvent);
  await handle(known, Deadline.after(5_000));
  start(projection);
  await eventually(
    async () => (await metric('catch_up_applied_total')) === 1,
    'one is mended',
    bounds,
  );
  const [rows] = await stores.pool.query('SELECT order_id, version FROM counted_orders');
  const versions = new Map(
    (rows as { order_id: string; version: number }[]).map((row) => [row.order_id, row.version]),
  );
  assert.equal(versions.get(String(behind.orderId)), behind.version);
  assert.equal(versions.get(String(ahead.orderId)), 9);
});

test('an order database that is away keeps no other from being compared', async () => {
  const events = newOrders(200, 10_000);
  away.add(0);
  start(projections().statistics);
  const there = events.filter(({ orderId }) => databaseOf(orderId) === 1);
  await eventually(
    async () => same(await statistics(stores.pool), recount(there)),
    'the orders of the other database are counted',
    bounds,
  );
  away.clear();
  await eventually(
    async () => same(await statistics(stores.pool), recount(events)),
    'those of the first one come too',
    bounds,
  );
});

test('while the order service is away nothing is lost, and then it goes on', async () => {
  const events = newOrders(20, 10_000);
  isServiceAway = true;
  start(projections().statistics);
  await eventually(
    async () => {
      const [rows] = await stores.pool.query(
        'SELECT 1 FROM catch_up_cursors WHERE due_time > NOW(3)',
      );
      return (rows as unknown[]).length > 0;
    },
    'it tries in vain',
    bounds,
  );
  isServiceAway = false;
  await eventually(
    async () => same(await statistics(stores.pool), recount(events)),
    'all are counted',
    bounds,
  );
});

test('an order that cannot take effect keeps no other, and is tried again in the next pass', async () => {
  const events = newOrders(50, 10_000);
  const [cursed, ...others] = events as [OrderEvent, ...OrderEvent[]];
  await stores.pool.query(
    `CREATE TRIGGER curse BEFORE INSERT ON counted_orders FOR EACH ROW
     BEGIN IF NEW.order_id = ${cursed.orderId} THEN SIGNAL SQLSTATE '45000'; END IF; END`,
  );
  try {
    start(projections().statistics);
    await eventually(
      async () => same(await statistics(stores.pool), recount(others)),
      'the others are counted',
      bounds,
    );
    await eventually(
      async () => (await metric('catch_up_failed_total')) >= 2,
      'it is tried again',
      bounds,
    );
  } finally {
    await stores.pool.query('DROP TRIGGER curse');
  }
  await eventually(
    async () => same(await statistics(stores.pool), recount(events)),
    'it is counted when its table takes it',
    bounds,
  );
});

test('a confirmation that was lost is sent for three days, once, and never for older orders', async () => {
  const young = newOrders(3, 48 * hourMs, 2n);
  newOrders(3, 96 * hourMs, 2n);
  const unpaid = newOrders(2, 10_000, 0n);
  const { mail } = projections();
  start(mail);
  start(mail);
  const expected = young.map(({ orderId }) => orderId).sort((a, b) => (a < b ? -1 : 1));
  const noted = async (): Promise<boolean> =>
    (await mailedOrders(stores.pool)).join() === expected.join();
  await eventually(noted, 'the confirmations of the young ones are noted', bounds);
  const oldest = firstOrderIdAt(Date.now() - 96 * hourMs);
  const { length } = lists;
  await eventually(() => lists.length >= length + 12, 'it is compared again and again', bounds);
  assert.ok(await noted());
  assert.ok(
    lists.every((list) => list.after > oldest),
    'it does not look so far back',
  );
  assert.ok(unpaid.length === 2);
  assert.equal(await metric('catch_up_applied_total'), 3);
});

test('two processes take turns, and mend each order once', async () => {
  const events = newOrders(1_500, 10_000);
  const { warehouse } = projections();
  start(warehouse);
  start(warehouse);
  await eventually(
    async () => Object.keys(await facts(stores.warehouse)).length === 2 * events.length,
    'the warehouse has all lines',
    bounds,
  );
  assert.equal(await metric('catch_up_applied_total'), events.length);
});

test('a process that died holds up its turn for a bounded time', async () => {
  const events = newOrders(20, 10_000);
  const { statistics: projection } = projections();
  start(projection);
  await eventually(
    async () => same(await statistics(stores.pool), recount(events)),
    'all are counted',
    bounds,
  );
  await Promise.all(loops.map((loop) => loop.stop()));
  loops = [];
  const more = newOrders(20, 5_000);
  await stores.pool.query(
    "UPDATE catch_up_cursors SET owner = 'dead', owned_until = NOW(3) + INTERVAL 3 SECOND, due_time = NOW(3)",
  );
  start(projection);
  await eventually(
    async () => same(await statistics(stores.pool), recount([...events, ...more])),
    'the others go on when its claim has ended',
    bounds,
  );
});
