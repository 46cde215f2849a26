import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { OrderLineFact, Warehouse } from '../../services/events/warehouse.ts';
import { createMysqlWarehouse } from '../../services/events/warehouse.ts';
import {
  type DeadLetter,
  listDeadLetters,
  replayDeadLetters,
} from '../../services/runtime/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers } from '../support/servers.ts';
import {
  type EventsBench,
  facts,
  lifeOf,
  mailedOrders,
  messageOf,
  orderEvent,
  startEventsBench,
  statistics,
} from './support.ts';

const brokers = kafkaBrokers.split(',');
let bench: EventsBench;
/** Orders at which the warehouse fails as broken code would. */
const harmful = new Set<bigint>();
/** How often the warehouse was given each order. */
const handed = new Map<bigint, number>();

before(async () => {
  bench = await startEventsBench('letters');
  const real = createMysqlWarehouse(bench.warehouse);
  const warehouse: Warehouse = {
    ...real,
    async store(lines: readonly OrderLineFact[], deadline) {
      for (const { orderId } of lines) {
        handed.set(orderId, (handed.get(orderId) ?? 0) + 1);
        if (harmful.has(orderId)) throw new TypeError(`cannot read order ${orderId}`);
      }
      await real.store(lines, deadline);
    },
  };
  await bench.start({ warehouse });
});

after(() => bench.close());

const options = (more: { group?: string; limit?: number; dryRun?: boolean } = {}) => ({
  ...{ brokers, topic: bench.topic, limit: 1_000 },
  ...more,
});
const group = (name: string): string => `${bench.prefix}.${name}`;

async function letters(count: number): Promise<DeadLetter[]> {
  let found: DeadLetter[] = [];
  await eventually(
    async () => {
      found = await listDeadLetters(options());
      return found.length >= count;
    },
    `${count} letters`,
    { everyMs: 200 },
  );
  return found;
}

test('poison of each kind goes to the dead letters, and what is behind it is handled', async () => {
  const behind = orderEvent(500n);
  const key = String(behind.orderId);
  const unknown = orderEvent(501n, { status: 77 as OrderStatus });
  harmful.add(502n);
  await bench.publish([
    { key, value: Buffer.from('not protobuf at all') },
    { key, value: new Uint8Array() },
    { ...messageOf(unknown), key },
    { ...messageOf(orderEvent(502n)), key },
    { ...messageOf(behind), key },
  ]);
  // Three groups cannot read three of them; one cannot handle the fourth.
  const found = await letters(10);
  assert.equal(found.length, 10);
  await eventually(async () => (await facts(bench.warehouse))['500/1'], 'the warehouse goes on');
  await eventually(async () => (await statistics(bench.pool))['4 EUR'], 'the statistics go on');
  const reasons = found.filter((letter) => letter.group === group('warehouse'));
  const reasonOf = (value: Uint8Array): string | undefined =>
    reasons.find((letter) => Buffer.compare(letter.value, value) === 0)?.reason;
  assert.match(reasonOf(messageOf(unknown).value) ?? '', /status 77 is not known/);
  assert.match(reasonOf(new Uint8Array()) ?? '', /names no order/);
  assert.match(reasonOf(messageOf(orderEvent(502n)).value) ?? '', /TypeError: cannot read/);
  assert.equal(reasons.length, 4);
  for (const { key: own, origin, replayed } of found) {
    assert.deepEqual([own, origin.topic, replayed], [key, bench.topic, false]);
  }
});

test('a list is limited to the newest, and to one group if that is asked for', async () => {
  const all = await letters(10);
  assert.deepEqual(await listDeadLetters(options({ limit: 3 })), all.slice(-3));
  const own = await listDeadLetters(options({ group: group('confirmation-mail') }));
  assert.equal(own.length, 3);
});

test('a replay brings a letter to the group that failed alone, and once', async () => {
  const [event] = lifeOf(4n).slice(-1) as [OrderEvent];
  harmful.add(event.orderId);
  await bench.publish([messageOf(event)]);
  const before = await letters(11);
  assert.equal(before.length, 11);
  await eventually(
    async () => (await mailedOrders(bench.pool)).includes(event.orderId),
    'the other groups have handled it',
  );
  harmful.clear();
  const warehouse = group('warehouse');
  const dry = await replayDeadLetters(options({ group: warehouse, dryRun: true }));
  assert.equal(dry.length, 5);
  // The others would count and mail it again if it were meant for them.
  await bench.pool.query('DELETE FROM confirmation_mails');
  const replayed = await replayDeadLetters(options({ group: warehouse }));
  assert.deepEqual(replayed, dry);
  await eventually(async () => (await facts(bench.warehouse))['4/1'], 'it is in the warehouse');
  await eventually(async () => (await facts(bench.warehouse))['502/1'], 'so is the other one');
  // What is still unreadable is buried again, by the warehouse alone.
  assert.equal((await letters(14)).length, 14);
  // When the others have come to what is behind the replayed event in its partition, they have left that one out.
  const status = OrderStatus.ORDER_STATUS_PAID;
  const behind = {
    ...messageOf(orderEvent(503n, { version: 2, status })),
    key: String(event.orderId),
  };
  await bench.publish([behind]);
  await eventually(async () => (await mailedOrders(bench.pool)).length > 0, 'a mail is noted');
  assert.deepEqual(await mailedOrders(bench.pool), [503n]);
  const times = handed.get(4n);
  const again = await replayDeadLetters(options({ group: warehouse }));
  assert.deepEqual(again.map(({ offset }) => offset).length, 3);
  assert.equal(handed.get(4n), times);
});

test('what was replayed is marked, letters of other groups are not, and a limit is kept', async () => {
  const mail = group('confirmation-mail');
  const [first] = await replayDeadLetters(options({ group: mail, limit: 1 }));
  assert(first);
  const own = await listDeadLetters(options({ group: mail }));
  const marked = own.filter(({ replayed }) => replayed).map(({ offset }) => offset);
  assert.deepEqual(marked, [first.offset]);
  const others = await listDeadLetters(options({ group: group('user-statistics') }));
  assert(others.every(({ replayed }) => !replayed));
});

test('without a group the letters of all groups are replayed', async () => {
  await eventually(
    async () => (await replayDeadLetters(options({ dryRun: true }))).length >= 3,
    'letters are there',
  );
  const groups = new Set((await replayDeadLetters(options())).map((letter) => letter.group));
  assert(groups.has(group('user-statistics')) && groups.has(group('confirmation-mail')));
});

test('an event that the database will never take does not hold up its partition', async () => {
  const total = { currencyCode: 'USD', minorUnits: 2n ** 63n - 1n };
  const items = [{ skuId: 1n, quantity: 1, unitPrice: total }];
  const paid = { userId: 3n, version: 2, status: OrderStatus.ORDER_STATUS_PAID, items, total };
  const key = 'of one partition';
  await bench.publish([
    { ...messageOf(orderEvent(700n, paid)), key },
    { ...messageOf(orderEvent(701n, paid)), key },
    { ...messageOf(orderEvent(702n, { userId: 99n })), key },
  ]);
  await eventually(
    async () => (await statistics(bench.pool))['99 EUR'],
    'the one behind it counts',
  );
  // What the test before replayed may be buried again meanwhile; those letters have other keys.
  const buried = await listDeadLetters(options({ group: group('user-statistics') }));
  const reasons = buried.filter((letter) => letter.key === key).map(({ reason }) => reason);
  assert.equal(reasons.length, 1);
  assert.match(reasons[0] ?? '', /out of range/i);
  assert.equal((await statistics(bench.pool))['3 USD']?.orders, '1');
});

test('a topic without letters is an empty list', async () => {
  const other = await startEventsBench('no_letters');
  try {
    assert.deepEqual(await listDeadLetters({ ...options(), topic: other.topic }), []);
    assert.deepEqual(await replayDeadLetters({ ...options(), topic: other.topic }), []);
  } finally {
    await other.close();
  }
});
