import assert from 'node:assert/strict';
import { after, afterEach, test } from 'node:test';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { createFollowOrders, decodeOrderEvent } from '../../services/stock/follow-orders.ts';
import type { Gate } from '../../services/stock/gate.ts';
import { moveHolds, type OrderMove } from '../../services/stock/ledger-moves.ts';
import { releaseDead } from '../../services/stock/release-dead.ts';
import { createReleaseStock } from '../../services/stock/release-stock.ts';
import { createStockMetrics } from '../../services/stock/stock-metrics.ts';
import { pauseAt } from '../support/composed.ts';
import { lockRows } from '../support/locked-rows.ts';
import {
  atRest,
  holdsOf,
  newSku,
  noBusySkus,
  reservation,
  reserve,
  startStockSystem,
} from './support.ts';

const system = await startStockSystem('release');
after(() => system.close());
afterEach(() => failpoints.clear());

async function figures(skuId: bigint): Promise<bigint[]> {
  const { sku } = await system.stock.getSku({ skuId });
  return [sku?.available ?? -1n, sku?.held ?? -1n, sku?.sold ?? -1n];
}

test('a release gives back what is held, once, however often it is asked for', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 5n)];
  const order = reservation([first, second], { quantity: 2 });
  await reserve(system, order);
  const { orderId, userId, requestId } = order;
  const release = { orderId, userId, requestId, skuIds: [first, second] };
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => system.stock.releaseStock({ releases: [release, release] })),
  );
  const units = answers.flatMap(({ releasedUnits }) => releasedUnits);
  assert.equal(
    units.reduce((sum, each) => sum + each),
    4n,
  );
  assert.deepEqual(await holdsOf(system.pool, orderId), [`${first}:3`, `${second}:3`]);
  for (const skuId of [first, second]) {
    assert.equal(await atRest(system, skuId), 5);
    assert.deepEqual(await figures(skuId), [5n, 0n, 0n]);
  }
});

test('the gate has the units back when a release is answered, and the request starts over', async () => {
  const skuId = await newSku(system, 1n);
  const order = reservation([skuId]);
  await reserve(system, order);
  const { orderId, userId, requestId } = order;
  await system.stock.releaseStock({ releases: [{ orderId, userId, requestId, skuIds: [skuId] }] });
  const next = { ...order, orderId: orderId + 1n };
  assert.equal((await reserve(system, next)).$case, 'reserved');
  assert.equal((await reserve(system, { ...order, requestId: 'z' })).$case, 'refused');
});

test('a release of an order without rows leaves fences, and its late post is dead', async () => {
  const [first, second] = [await newSku(system, 5n), await newSku(system, 5n)];
  const order = reservation([first, second]);
  const { orderId, userId, requestId } = order;
  const release = { orderId, userId, requestId, skuIds: [first, second] };
  for (let time = 0; time < 2; time += 1) {
    const { releasedUnits } = await system.stock.releaseStock({ releases: [release] });
    assert.deepEqual(releasedUnits, [0n]);
  }
  assert.deepEqual(await holdsOf(system.pool, orderId), [`${first}:5`, `${second}:5`]);
  assert.equal((await reserve(system, order)).$case, 'dead');
  await system.stock.releaseStock({ releases: [release] });
  for (const skuId of [first, second]) assert.equal(await atRest(system, skuId), 5);
});

test('a release between the gate and the post credits what is pending, and bars the post', async () => {
  const skuId = await newSku(system, 3n);
  const order = reservation([skuId]);
  const { orderId, userId, requestId } = order;
  let hits = 0;
  failpoints.set('stock.before_post', async () => {
    hits += 1;
    if (hits > 1) return;
    await system.stock.releaseStock({
      releases: [{ orderId, userId, requestId, skuIds: [skuId] }],
    });
  });
  const outcome = await reserve(system, order);
  assert.equal(outcome.$case, 'dead');
  const { gate } = await system.admin.getStockLayers({ skuId });
  assert.deepEqual([gate?.available, gate?.pendingOrders], [3n, 0n]);
});

/** The releases of a service, without the service, so that a test may disturb the gate. */
function releasesWith(gate: Partial<Gate>) {
  const log = createLog('test', 'silent');
  const metrics = createStockMetrics(createMetrics('test'));
  const creditFenced = async (): Promise<void> => {};
  const { pool } = system;
  const busySkus = noBusySkus;
  return createReleaseStock({ pool, busySkus, gate: gate as Gate, creditFenced, metrics, log });
}

test('a credit that the gate did not answer is not sent again, and heals by itself', async () => {
  const skuId = await newSku(system, 5n);
  const order = reservation([skuId]);
  await reserve(system, order);
  let calls = 0;
  const releases = releasesWith({
    release: () => {
      calls += 1;
      return Promise.reject(new Error('no answer'));
    },
  });
  const move = moveOf(order.orderId);
  const options = { forgetRequests: false };
  assert.deepEqual(await releases.release([move], options, Deadline.after(30_000)), [1n]);
  assert.equal(calls, 1);
  assert.equal(await atRest(system, skuId), 5, 'the contradiction was healed');
});

const moveOf = (orderId: bigint, more: Partial<OrderMove> = {}): OrderMove => ({
  ...{ orderId, move: 'RELEASE', fenceSkuIds: [], userId: 0n, requestId: '' },
  ...more,
});

async function databaseName(): Promise<string> {
  const [rows] = await system.pool.query('SELECT DATABASE() AS name');
  return (rows as [{ name: string }])[0].name;
}

test('beside an order whose row is locked, a dead order that is being posted just now is asked for again', async () => {
  const [locked, free] = [await newSku(system, 5n), await newSku(system, 5n)];
  const [stuck, dead] = [reservation([locked]), reservation([free])];
  const coming = reservation([await newSku(system, 5n)]);
  for (const order of [stuck, dead]) await reserve(system, order);
  const holder = await lockRows(await databaseName(), [
    `SELECT state FROM stock_holds WHERE order_id = ${stuck.orderId} FOR UPDATE`,
  ]);
  const post = pauseAt('stock.before_post_commit');
  const posting = reserve(system, coming);
  try {
    await post.reached;
    const log = createLog('test', 'silent');
    const releaseStock = releasesWith({
      release: async () => 'CREDITED',
      forgetRequests: async () => undefined,
    });
    const orderIds = [stuck.orderId, dead.orderId, coming.orderId];
    const left = await releaseDead({ pool: system.pool, releaseStock, log }, orderIds);
    assert.deepEqual([...left.again].sort(), [stuck.orderId, coming.orderId].sort());
    assert.equal(left.failed.size, 0);
    assert.deepEqual(await holdsOf(system.pool, dead.orderId), [`${free}:3`]);
  } finally {
    post.release();
    await posting;
    await holder.release();
  }
});

const lockedThings = [
  {
    name: "a hold's row",
    sql: (orderId: bigint) =>
      `SELECT state FROM stock_holds WHERE order_id = ${orderId} FOR UPDATE`,
  },
  {
    name: "a SKU's row",
    sql: (_: bigint, skuId: bigint) => `SELECT title FROM skus WHERE sku_id = ${skuId} FOR UPDATE`,
  },
];
for (const { name, sql } of lockedThings) {
  for (const fences of [false, true]) {
    const how = fences ? 'moves that may fence' : 'moves';
    test(`${how} pass over an order while another transaction keeps ${name} locked, and move the others`, async () => {
      const [locked, free] = [await newSku(system, 5n), await newSku(system, 5n)];
      const orders = [reservation([locked]), reservation([free]), reservation([locked, free])];
      for (const order of orders) assert.equal((await reserve(system, order)).$case, 'reserved');
      const [first, second, both] = orders as [
        (typeof orders)[0],
        (typeof orders)[0],
        (typeof orders)[0],
      ];
      const holder = await lockRows(await databaseName(), [
        sql(first.orderId, locked),
        sql(both.orderId, locked),
      ]);
      const moves = orders.map(({ orderId, lines }) =>
        moveOf(orderId, { fenceSkuIds: fences ? lines.map(({ skuId }) => skuId) : [] }),
      );
      const move = () => moveHolds(system.pool, noBusySkus, moves, Deadline.after(30_000));
      try {
        const { moved, busy } = await move();
        assert.deepEqual([...busy].sort(), [first.orderId, both.orderId].sort());
        assert.deepEqual(
          moved.map(({ orderId }) => orderId),
          [second.orderId],
        );
        assert.equal((await reserve(system, reservation([free]))).$case, 'reserved');
      } finally {
        await holder.release();
      }
      const { moved, busy } = await move();
      assert.equal(busy.size, 0);
      assert.equal(moved.length, 3, 'two lines and one');
    });
  }
}

test('a release names the orders that are locked, and gives the others back', async () => {
  const [locked, free] = [await newSku(system, 5n), await newSku(system, 5n)];
  const orders = [reservation([locked]), reservation([free])];
  for (const order of orders) await reserve(system, order);
  const releases = orders.map(({ orderId, userId, requestId, lines }) => ({
    ...{ orderId, userId, requestId },
    skuIds: lines.map(({ skuId }) => skuId),
  }));
  const holder = await lockRows(await databaseName(), [
    `SELECT title FROM skus WHERE sku_id = ${locked} FOR UPDATE`,
  ]);
  try {
    const answer = await system.stock.releaseStock({ releases });
    assert.deepEqual(answer.releasedUnits, [0n, 1n]);
    assert.deepEqual(answer.lockedOrderIds, [orders[0]?.orderId]);
  } finally {
    await holder.release();
  }
  const answer = await system.stock.releaseStock({ releases });
  assert.deepEqual(answer.releasedUnits, [1n, 0n]);
  assert.deepEqual(answer.lockedOrderIds, []);
});

test('order events sell, release and restock; repeated and disordered they do the same', async () => {
  const skuId = await newSku(system, 9n);
  const orders = await Promise.all(
    Array.from({ length: 4 }, async () => {
      const order = reservation([skuId]);
      await reserve(system, order);
      return order.orderId;
    }),
  );
  const [paid, cancelled, restocked, refunded] = orders as [bigint, bigint, bigint, bigint];
  const event = (orderId: bigint, status: OrderStatus, restock = false): OrderEvent =>
    OrderEvent.fromPartial({ orderId, status, restock });
  const { ORDER_STATUS_PAID: PAID, ORDER_STATUS_REFUNDED: REFUNDED } = OrderStatus;
  const events = [
    event(restocked, REFUNDED, true),
    event(paid, OrderStatus.ORDER_STATUS_PENDING),
    event(paid, PAID),
    event(cancelled, OrderStatus.ORDER_STATUS_CANCELLED),
    event(restocked, PAID),
    event(refunded, PAID),
    event(refunded, REFUNDED),
  ];
  const follow = createFollowOrders(
    releasesWith({ release: () => Promise.resolve('CREDITED' as const) }),
  );
  for (let time = 0; time < 2; time += 1) await follow.handle(events, Deadline.after(30_000));
  await follow.close();
  assert.deepEqual(await Promise.all(orders.map((orderId) => holdsOf(system.pool, orderId))), [
    [`${skuId}:2`],
    [`${skuId}:3`],
    [`${skuId}:4`],
    [`${skuId}:2`],
  ]);
  assert.deepEqual(await figures(skuId), [7n, 0n, 2n]);
});

test('an event that cannot take effect does not take the others of its transaction with it', async () => {
  const released: bigint[] = [];
  const follow = createFollowOrders({
    async release(moves) {
      if (moves.some(({ orderId }) => orderId === 2n)) throw new TypeError('poison');
      released.push(...moves.map(({ orderId }) => orderId));
      return moves.map(() => 0n);
    },
  });
  const cancelled = (orderId: bigint): OrderEvent[] => [
    OrderEvent.fromPartial({ orderId, status: OrderStatus.ORDER_STATUS_CANCELLED }),
  ];
  const deadline = Deadline.after(30_000);
  const handled = await Promise.allSettled(
    [1n, 2n, 3n].map((orderId) => follow.handle(cancelled(orderId), deadline)),
  );
  await follow.close();
  assert.deepEqual(
    handled.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
  assert.deepEqual(released, [1n, 3n]);
});

test('an event that cannot be understood is refused when it is read', () => {
  const bytes = (event: Partial<OrderEvent>): Uint8Array =>
    OrderEvent.encode(OrderEvent.fromPartial(event)).finish();
  const status = OrderStatus.ORDER_STATUS_PAID;
  assert.equal(decodeOrderEvent(bytes({ orderId: 5n, status })).orderId, 5n);
  assert.throws(() => decodeOrderEvent(Buffer.from('not an event')));
  assert.throws(() => decodeOrderEvent(bytes({ status })), /names no order/);
  assert.throws(() => decodeOrderEvent(bytes({ orderId: 5n })), /status 0/);
  const newer = bytes({ orderId: 5n, status: 99 as OrderStatus });
  assert.throws(() => decodeOrderEvent(newer), /status 99/);
});

test('releases and payments of one order at the same time leave exactly one effect', async () => {
  const skuId = await newSku(system, 50n);
  const orders = Array.from({ length: 20 }, () => reservation([skuId]));
  await system.stock.reserveStock({ reservations: orders });
  const moves = (move: 'RELEASE' | 'SELL'): OrderMove[] =>
    orders.map(({ orderId }) => ({ orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' }));
  const both = await Promise.all(
    (['RELEASE', 'SELL'] as const).map((move) =>
      moveHolds(system.pool, noBusySkus, moves(move), Deadline.after(30_000)),
    ),
  );
  assert.equal(
    both.reduce((sum, { moved }) => sum + moved.length, 0),
    20,
  );
  const [available, held, sold] = (await figures(skuId)) as [bigint, bigint, bigint];
  assert.equal(available + sold, 50n);
  assert.equal(held, 0n);
});
