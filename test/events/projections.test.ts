import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { createConfirmationMails } from '../../services/events/confirmation-mail.ts';
import { decodeOrderEvent, type KnownOrderEvent } from '../../services/events/order-event.ts';
import { createUserStatistics } from '../../services/events/user-statistics.ts';
import { createMysqlWarehouse, createWarehouseFacts } from '../../services/events/warehouse.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { FailpointError, failpoints } from '../../services/runtime/failpoints.ts';
import { pieces, printedSeed, random, shuffled } from './shuffle.ts';
import {
  facts,
  lifeOf,
  livesOf,
  mailedOrders,
  messageOf,
  openStores,
  orderEvent,
  paidOrders,
  recount,
  type Stores,
  statistics,
} from './support.ts';

let stores: Stores;
let handles: ((events: KnownOrderEvent[]) => Promise<void>)[];

before(async () => {
  stores = await openStores('projections');
  const all = [
    createUserStatistics(stores.pool),
    createWarehouseFacts(createMysqlWarehouse(stores.warehouse)),
    createConfirmationMails(stores.pool, () => undefined),
  ];
  handles = all.map((handle) => (events) => handle(events, Deadline.after(20_000)));
});

after(() => stores.close());

beforeEach(async () => {
  for (const table of ['counted_orders', 'user_statistics', 'confirmation_mails'])
    await stores.pool.query(`DELETE FROM ${table}`);
  await stores.warehouse.query('DELETE FROM order_line_facts');
});

/** As the events come from Kafka. */
function received(events: readonly OrderEvent[]): KnownOrderEvent[] {
  return events.map((event) => decodeOrderEvent(messageOf(event).value));
}

async function apply(events: readonly OrderEvent[]): Promise<void> {
  for (const handle of handles) await handle(received(events));
}

async function expectEffectsOf(events: readonly OrderEvent[]): Promise<void> {
  assert.deepEqual(await statistics(stores.pool), recount(events));
  assert.deepEqual(await facts(stores.warehouse), lastLines(events));
  assert.deepEqual(await mailedOrders(stores.pool), paidOrders(events));
}

function lastLines(events: readonly OrderEvent[]): Record<string, string> {
  const lines: Record<string, string> = {};
  for (const event of [...events].sort((a, b) => a.version - b.version)) {
    const status = Object.entries(OrderStatus).find(([, value]) => value === event.status)?.[0];
    for (const { skuId, quantity, unitPrice } of event.items) {
      lines[`${event.orderId}/${skuId}`] =
        `${event.version} ${status?.slice('ORDER_STATUS_'.length)} ` +
        `${event.closeReason ? 'EXPIRED' : ''} ${quantity}×${unitPrice?.minorUnits} ` +
        `${event.total?.minorUnits}-${event.refunded?.minorUnits ?? 0n} EUR by ${event.userId}, ` +
        `payment ${event.paymentId}, ${event.eventTime?.toISOString()}`;
    }
  }
  return lines;
}

test('one life of each kind has the effects of its last version', async () => {
  const events = livesOf(10n, 5);
  for (const event of events) await apply([event]);
  await expectEffectsOf(events);
  const [[user]] = Object.entries(await statistics(stores.pool)) as [[string, unknown]];
  assert.match(user, /^\d EUR$/);
});

test('events that come a hundred times count once', async () => {
  const events = livesOf(100n, 10);
  for (let times = 0; times < 100; times += 1) await apply(events);
  await expectEffectsOf(events);
});

test('a hundred copies of each event in one batch count once', async () => {
  const events = livesOf(100n, 5);
  await apply(Array.from({ length: 100 }, () => events).flat());
  await expectEffectsOf(events);
});

test('a newer version that comes first is not undone by the older one', async () => {
  const events = lifeOf(4n);
  for (const event of [...events].reverse()) await apply([event]);
  await expectEffectsOf(events);
});

test('shuffled and repeated events in batches of any size have the same effects', async () => {
  const next = random(printedSeed());
  const events = livesOf(1_000n, 200);
  const copies = shuffled([...events, ...events, ...events], next);
  for (const piece of pieces(copies, 60, next)) await apply(piece);
  await expectEffectsOf(events);
});

test('several consumers that handle the same events at once count each once', async () => {
  const next = random(printedSeed());
  const events = livesOf(5_000n, 120);
  const handle = async (own: readonly OrderEvent[][]): Promise<void> => {
    for (const piece of own) await untilDone(() => apply(piece));
  };
  await Promise.all(
    Array.from({ length: 4 }, () => handle(pieces(shuffled(events, next), 40, next))),
  );
  await expectEffectsOf(events);
});

test('a batch whose transaction fails leaves nothing, and counts when it comes again', async () => {
  const events = livesOf(9_000n, 20);
  failpoints.set('statistics.before_commit', () => {
    throw new FailpointError('statistics.before_commit');
  });
  await assert.rejects(apply(events), FailpointError).finally(() => failpoints.clear());
  assert.deepEqual(await statistics(stores.pool), {});
  await apply(events);
  await expectEffectsOf(events);
});

test('users with orders in two currencies have figures for each', async () => {
  const yen = { currencyCode: 'JPY', minorUnits: 500n };
  const inYen = { total: yen, items: [{ skuId: 1n, quantity: 1, unitPrice: yen }] };
  const events = [orderEvent(7n), orderEvent(14n, inYen)];
  await apply(events);
  assert.deepEqual(await statistics(stores.pool), recount(events));
  assert.deepEqual(Object.keys(await statistics(stores.pool)).sort(), ['1 EUR', '1 JPY']);
});

test('a refund long after the sale brings no second confirmation', async () => {
  const eventTime = new Date(Date.UTC(2026, 5, 1));
  const refunded = { currencyCode: 'EUR', minorUnits: 100n };
  const paid = OrderStatus.ORDER_STATUS_PAID;
  await apply([orderEvent(1n, { version: 3, status: paid, refunded, eventTime })]);
  await apply([orderEvent(2n, { version: 2, status: paid, eventTime })]);
  assert.deepEqual(await mailedOrders(stores.pool), [2n]);
});

const unreadable: [string, Partial<OrderEvent>][] = [
  ['no order', { orderId: 0n }],
  ['no user', { userId: 0n }],
  ['no version', { version: 0 }],
  ['an unknown status', { status: 99 as OrderStatus }],
  ['no status', { status: 0 }],
  ['an unknown close reason', { closeReason: 9 as OrderEvent['closeReason'] }],
  ['no total', { total: undefined }],
  ['a currency that is none', { total: { currencyCode: "E'R", minorUnits: 1n } }],
  ['a negative total', { total: { currencyCode: 'EUR', minorUnits: -1n } }],
  ['a refund in another currency', { refunded: { currencyCode: 'USD', minorUnits: 1n } }],
  ['no time', { eventTime: undefined }],
  ['a line without a price', { items: [{ skuId: 1n, quantity: 1, unitPrice: undefined }] }],
];
for (const [what, event] of unreadable) {
  test(`an event with ${what} cannot be read`, () => {
    assert.throws(() => received([orderEvent(1n, event)]));
  });
}

/** A lost deadlock or lock wait comes again, as the consumer would do it. */
async function untilDone(work: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (attempt >= 20 || ![1205, 1213].includes((error as { errno?: number }).errno ?? 0))
        throw error;
    }
  }
}
