import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createEventPublisher,
  type EventPublisher,
} from '../../services/runtime/event-publisher.ts';
import { orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers } from '../support/servers.ts';
import { type System, startSystem } from '../support/system.ts';
import { runSeed, seededRandom } from '../support/workload.ts';
import { reservation } from './support.ts';

// Order events through real Kafka into the ledger of real processes.

const { ORDER_STATUS_PENDING, ORDER_STATUS_PAID, ORDER_STATUS_CANCELLED } = OrderStatus;
const { ORDER_STATUS_REFUNDING, ORDER_STATUS_REFUNDED } = OrderStatus;

/** What happens to an order, and the state in which its hold ends. */
const fates = {
  stays: { statuses: [ORDER_STATUS_PENDING], restock: false, state: 1 },
  paid: { statuses: [ORDER_STATUS_PENDING, ORDER_STATUS_PAID], restock: false, state: 2 },
  cancelled: { statuses: [ORDER_STATUS_PENDING, ORDER_STATUS_CANCELLED], restock: false, state: 3 },
  refunded: {
    statuses: [ORDER_STATUS_PAID, ORDER_STATUS_REFUNDING, ORDER_STATUS_REFUNDED],
    restock: false,
    state: 2,
  },
  restocked: {
    statuses: [ORDER_STATUS_PAID, ORDER_STATUS_REFUNDING, ORDER_STATUS_REFUNDED],
    restock: true,
    state: 4,
  },
} as const;
type Fate = keyof typeof fates;
const fateNames = Object.keys(fates) as Fate[];

const repeats = 4;
/** So many that each of the 12 partitions has some of them. */
const markers = 200;
const followedWithinMs = 120_000;
const slow = { timeout: 600_000 };
const seed = runSeed();
console.log(`seed ${seed} (SLUICE_TEST_SEED)`);
const random = seededRandom(seed);
let system: System;
let publisher: EventPublisher;
let topic: string;
let lastSku = 0n;

before(async () => {
  // The orders exist only as events, so no sweep may come to ask for them.
  const env = { SLUICE_SETTLE_AGE_MS: '600000', SLUICE_REDIS_TIMEOUT_MS: '5000' };
  system = await startSystem({ name: 'follow', stocks: 2, env });
  topic = orderEventsTopic(`${system.prefix}.`);
  const log = createLog('test', 'silent');
  publisher = createEventPublisher({ clientId: 'test', brokers: kafkaBrokers.split(','), log });
});

after(async () => {
  await publisher?.close();
  await system?.close();
});

interface Followed {
  readonly orderId: bigint;
  readonly fate: Fate;
  readonly events: { readonly key: string; readonly value: Uint8Array }[];
}

/** Orders of one unit each that the ledger holds, with the events that are to follow. */
async function newOrders(skuId: bigint, count: number): Promise<Followed[]> {
  const reservations = Array.from({ length: count }, () => reservation([skuId]));
  const { results } = await system.stock.reserveStock({ reservations });
  assert(results.every(({ outcome }) => outcome?.$case === 'reserved'));
  return reservations.map(({ orderId, userId }, index) => {
    const fate = fateNames[index % fateNames.length] as Fate;
    const { statuses, restock } = fates[fate];
    const events = statuses.map((status, at) => {
      const last = at === statuses.length - 1;
      const event = { orderId, userId, version: at + 1, status, restock: restock && last };
      const value = OrderEvent.encode(OrderEvent.fromPartial(event)).finish();
      return { key: String(orderId), value };
    });
    return { orderId, fate, events };
  });
}

function shuffled<Thing>(things: readonly Thing[]): Thing[] {
  const mixed = [...things];
  for (let at = mixed.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [mixed[at], mixed[other]] = [mixed[other] as Thing, mixed[at] as Thing];
  }
  return mixed;
}

async function newSku(supplied: bigint): Promise<bigint> {
  lastSku += 1n;
  await system.createSku({ skuId: lastSku, supplied });
  return lastSku;
}

async function statesOf(orders: readonly Followed[]): Promise<Map<string, number>> {
  const [rows] = await system.stockPool.query(
    'SELECT order_id, state FROM stock_holds WHERE order_id IN (?)',
    [orders.map(({ orderId }) => orderId)],
  );
  return new Map(
    (rows as { order_id: string; state: number }[]).map((row) => [row.order_id, row.state]),
  );
}

/** Waits until every hold is in its last state, then until the gate has what the ledger has. */
async function untilFollowed(skuId: bigint, orders: readonly Followed[]): Promise<void> {
  await eventually(
    async () => {
      const states = await statesOf(orders);
      return orders.every(({ orderId, fate }) => states.get(String(orderId)) === fates[fate].state);
    },
    'every hold is in its last state',
    { everyMs: 100, withinMs: followedWithinMs },
  );
  const count = (state: number): bigint =>
    BigInt(orders.filter(({ fate }) => fates[fate].state === state).length);
  await eventually(
    async () => {
      const { gate, ledger } = await system.admin.getStockLayers({ skuId });
      return gate?.loaded && gate.pendingOrders === 0n && gate.available === ledger?.available;
    },
    'the gate has what the ledger has',
    // A process that was killed leaves pending entries, and credits that are missed only behind them.
    { everyMs: 100, withinMs: followedWithinMs },
  );
  const { ledger } = await system.admin.getStockLayers({ skuId });
  const supplied = ledger?.supplied ?? 0n;
  assert.deepEqual([ledger?.held, ledger?.sold], [count(1), count(2)]);
  assert.equal(ledger?.available, supplied - count(1) - count(2), 'each unit came back once');
}

async function publish(events: Followed['events']): Promise<void> {
  for (let from = 0; from < events.length; from += 100) {
    await publisher.publish(topic, events.slice(from, from + 100), Deadline.after(20_000));
  }
}

test('events that come several times and in any order take effect once', slow, async () => {
  const skuId = await newSku(1_000n);
  const orders = await newOrders(skuId, 200);
  const all = orders.flatMap(({ events }) => Array.from({ length: repeats }, () => events).flat());
  await publish(shuffled(all));
  await untilFollowed(skuId, orders);
  await publish(shuffled(orders.flatMap(({ events }) => events)));
  // What is behind the repetitions in every partition: when it is followed, they were too.
  const marker = await newOrders(skuId, markers);
  await publish(marker.flatMap(({ events }) => events));
  await untilFollowed(skuId, [...orders, ...marker]);
});

test(
  'a process killed between an effect and the commit of its offset repeats nothing',
  slow,
  async () => {
    const skuId = await newSku(1_000n);
    const orders = await newOrders(skuId, 200);
    for (const victim of system.stocks) {
      await victim.restart({ SLUICE_FAILPOINTS: 'stock.after_release_commit:kill@2' });
    }
    const all = orders.flatMap(({ events }) =>
      Array.from({ length: repeats }, () => events).flat(),
    );
    // In pieces, so that each process comes to its second batch.
    const mixed = shuffled(all);
    const piece = Math.ceil(mixed.length / 20);
    const dead = () => system.stocks.filter(({ process: child }) => !child.isRunning());
    for (let from = 0; from < mixed.length; from += piece) {
      await publish(mixed.slice(from, from + piece));
    }
    // A consumer that joined late has all of it in one batch: then more must come.
    let from = 0;
    await eventually(
      async () => {
        if (dead().length > 0) return true;
        from = (from + piece) % mixed.length;
        await publish(mixed.slice(from, from + piece));
        return false;
      },
      'a consumer is killed',
      { everyMs: 500, withinMs: followedWithinMs },
    );
    for (const victim of system.stocks) await victim.restart();
    await untilFollowed(skuId, orders);
  },
);
