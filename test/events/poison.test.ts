import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { listDeadLetters, replayDeadLetters } from '../../services/runtime/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers } from '../support/servers.ts';
import {
  type EventsBench,
  facts,
  lifeOf,
  livesOf,
  mailedOrders,
  messageOf,
  paidOrders,
  recount,
  startEventsBench,
  statistics,
} from './support.ts';

// An order that one table will not take, for a reason that the consumers do not know, in each of them.

const brokers = kafkaBrokers.split(',');
const bounds = { withinMs: 120_000, everyMs: 200 };
/** An order that is paid. */
const cursed = 7n;
let bench: EventsBench;

before(async () => {
  bench = await startEventsBench('poison');
  await bench.start();
});
after(() => bench?.close());

async function curse(pool: EventsBench['pool'], table: string): Promise<void> {
  await pool.query(
    `CREATE TRIGGER curse_of_${table} BEFORE INSERT ON ${table} FOR EACH ROW
     BEGIN IF NEW.order_id = ${cursed} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'cursed'; END IF; END`,
  );
}

const same = (a: object, b: object): boolean =>
  JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());

/** All effects of some events are there, and those of no others. */
async function untilEffects(events: readonly OrderEvent[]): Promise<void> {
  const lines = new Set(
    events.flatMap((event) => event.items.map(({ skuId }) => `${event.orderId}/${skuId}`)),
  );
  const areThere = async (): Promise<boolean> =>
    same(await statistics(bench.pool), recount(events)) &&
    Object.keys(await facts(bench.warehouse)).length === lines.size &&
    (await mailedOrders(bench.pool)).length === paidOrders(events).length;
  await eventually(areThere, 'statistics, warehouse and mails have all others', bounds);
}

test('each consumer sets aside the order that its table does not take, goes on with the others, and takes it later', async () => {
  await curse(bench.pool, 'counted_orders');
  await curse(bench.pool, 'confirmation_mails');
  await curse(bench.warehouse, 'order_line_facts');
  const others = [...livesOf(100n, 60), ...livesOf(200n, 60)];
  const poison = lifeOf(cursed).map(messageOf);
  const key = 'of one partition';
  const [front, behind] = [others.slice(0, 100), others.slice(100)];
  await bench.publish(
    [...front.map(messageOf), ...poison, ...behind.map(messageOf)].map((message) => ({
      ...message,
      key,
    })),
  );
  await untilEffects(others);
  const groupsOf = async (): Promise<string[]> => {
    const letters = await listDeadLetters({ brokers, topic: bench.topic, limit: 100 });
    assert.ok(letters.every(({ reason }) => reason.includes('cursed')));
    return [...new Set(letters.map(({ group }) => group.replace(`${bench.prefix}.`, '')))].sort();
  };
  const expected = ['confirmation-mail', 'user-statistics', 'warehouse'];
  const isSetAside = async (): Promise<boolean> => same(await groupsOf(), expected);
  await eventually(isSetAside, 'each group sets it aside', bounds);

  for (const table of ['counted_orders', 'confirmation_mails']) {
    await bench.pool.query(`DROP TRIGGER curse_of_${table}`);
  }
  await bench.warehouse.query('DROP TRIGGER curse_of_order_line_facts');
  await replayDeadLetters({ brokers, topic: bench.topic, limit: 100 });
  await untilEffects([...others, ...lifeOf(cursed)]);
});

test('while the warehouse takes nothing the statistics and mails go on, and then it has everything', async () => {
  const before = Object.keys(await facts(bench.warehouse)).length;
  await bench.warehouse.query('RENAME TABLE order_line_facts TO facts_away');
  const events = livesOf(5_000n, 40);
  await bench.publish(events.map(messageOf));
  const paid = paidOrders(events);
  const goOn = async (): Promise<boolean> => {
    const mailed = new Set(await mailedOrders(bench.pool));
    const [rows] = await bench.pool.query(
      'SELECT order_id FROM counted_orders WHERE order_id >= 5000',
    );
    return paid.every((orderId) => mailed.has(orderId)) && (rows as unknown[]).length === 40;
  };
  await eventually(goOn, 'statistics and mails go on', bounds);
  await bench.warehouse.query('RENAME TABLE facts_away TO order_line_facts');
  await eventually(
    async () => Object.keys(await facts(bench.warehouse)).length === before + 80,
    'the warehouse has all of it',
    bounds,
  );
  const letters = await listDeadLetters({ brokers, topic: bench.topic, limit: 100 });
  assert.ok(
    letters.every(({ reason }) => reason.includes('cursed')),
    'nothing else is set aside',
  );
});
