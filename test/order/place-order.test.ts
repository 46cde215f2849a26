import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { RefusalReason } from '../../gen/sluice/stock/v1/refusal.ts';
import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { refusedOutcome, reservedOutcome } from './fake-stock.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

let bench: OrderBench;
let order: OrderProcess;
let user = 1_000n;

before(async () => {
  bench = await startOrderBench('place');
  order = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.stock.script = () => undefined;
  bench.stock.released.length = 0;
});
after(() => bench.stop());

/** A user that no other test has used. */
function newUser(): bigint {
  user += 1n;
  return user;
}

/** Rows of a user's orders, fences not included. */
function ordersOf(userId: bigint) {
  return bench.orderRows(`user_id = ${userId}`);
}

/** A second is all that a process waits for a lock, and a pause of the machine may take longer. */
function waitLongForLocks({ shards }: OrderProcess): void {
  for (const { pool } of shards.databases) {
    const lend = pool.lend.bind(pool);
    pool.lend = async (deadline) => {
      const connection = await lend(deadline);
      await connection.query('SET SESSION innodb_lock_wait_timeout = 20');
      return connection;
    };
  }
}

async function fence(orderId: bigint): Promise<void> {
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `INSERT INTO orders_${table} (order_id, user_id, status, create_time, expire_time, update_time)
     VALUES (${orderId}, 0, 8, NOW(3), NOW(3), NOW(3))`,
  );
}

test('an order is stored with its items, prices and times as it is answered', async () => {
  const userId = newUser();
  const lines = [
    { skuId: 3n, quantity: 2 },
    { skuId: 1n, quantity: 5 },
  ];
  const { order: made, replayed } = await order.client.createOrder(
    orderRequest(userId, 'stored', lines),
  );
  assert.equal(replayed, false);
  assert.equal(made?.status, OrderStatus.ORDER_STATUS_PENDING);
  assert.deepEqual(made?.total, { currencyCode: 'EUR', minorUnits: 2n * 300n + 5n * 100n });
  assert.deepEqual(
    made?.items.map(({ skuId, quantity }) => [skuId, quantity]),
    [
      [1n, 5],
      [3n, 2],
    ],
  );
  assert.equal(made?.expireTime?.getTime(), (made?.createTime?.getTime() ?? 0) + 900_000);
  const read = await order.client.getOrder({ orderId: made?.orderId ?? 0n, userId });
  assert.deepEqual(read.order, made);
});

test('the same request again answers the same order as a replay', async () => {
  const userId = newUser();
  const first = await order.client.createOrder(orderRequest(userId, 'again'));
  const second = await order.client.createOrder(orderRequest(userId, 'again'));
  assert.deepEqual(second, { order: first.order, replayed: true });
  assert.equal((await ordersOf(userId)).length, 1);
});

test('equal lines in another order and split up are the same content', async () => {
  const userId = newUser();
  const first = await order.client.createOrder(
    orderRequest(userId, 'merged', [
      { skuId: 1n, quantity: 3 },
      { skuId: 2n, quantity: 1 },
    ]),
  );
  const second = await order.client.createOrder(
    orderRequest(userId, 'merged', [
      { skuId: 2n, quantity: 1 },
      { skuId: 1n, quantity: 1 },
      { skuId: 1n, quantity: 2 },
    ]),
  );
  assert.equal(second.order?.orderId, first.order?.orderId);
});

test('other content under the same request id is an error and gives its own hold back', async () => {
  const userId = newUser();
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'reused'));
  // Redis has forgotten the request, so stock reserves under the new id.
  bench.stock.script = reservedOutcome;
  await assert.rejects(
    order.client.createOrder(orderRequest(userId, 'reused', [{ skuId: 9n, quantity: 1 }])),
    { reason: 'IDEMPOTENCY_KEY_REUSED' },
  );
  assert.equal((await ordersOf(userId)).length, 1);
  assert.equal(bench.stock.released.length, 1);
  assert.notEqual(bench.stock.released[0], made?.orderId);
});

test('after Redis forgot the request, the unique key finds its order and the new hold goes back', async () => {
  const userId = newUser();
  const first = await order.client.createOrder(orderRequest(userId, 'forgotten'));
  bench.stock.script = reservedOutcome;
  const second = await order.client.createOrder(orderRequest(userId, 'forgotten'));
  assert.deepEqual(second, { order: first.order, replayed: true });
  assert.equal(bench.stock.released.length, 1);
  assert.notEqual(bench.stock.released[0], first.order?.orderId);
});

test('a winner is answered even if the own hold cannot be given back now', async () => {
  const userId = newUser();
  const first = await order.client.createOrder(orderRequest(userId, 'winner'));
  bench.stock.script = reservedOutcome;
  failpoints.set('order.before_release', () => {
    throw new Error('stock is away');
  });
  const second = await order.client.createOrder(orderRequest(userId, 'winner'));
  assert.equal(second.order?.orderId, first.order?.orderId);
});

test('an adopted id without an order is gone on with', async () => {
  const userId = newUser();
  const asked: bigint[] = [];
  let adopted = 0n;
  bench.stock.script = (reservation) => {
    asked.push(reservation.orderId);
    if (asked.length === 1) {
      adopted = reservation.orderId - 4096n * 1024n;
      return { $case: 'adopted', value: { orderId: adopted } };
    }
    return reservedOutcome(reservation);
  };
  const { order: made, replayed } = await order.client.createOrder(orderRequest(userId, 'adopt'));
  assert.equal(made?.orderId, adopted);
  assert.equal(replayed, false);
  assert.deepEqual(asked.slice(1), [adopted]);
});

test('an adopted id whose order exists is answered from the table, without a second reservation', async () => {
  const userId = newUser();
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'there'));
  let asked = 0;
  bench.stock.script = () => {
    asked += 1;
    return { $case: 'adopted', value: { orderId: made?.orderId ?? 0n } };
  };
  const again = await order.client.createOrder(orderRequest(userId, 'there'));
  assert.deepEqual(again, { order: made, replayed: true });
  assert.equal(asked, 1);
});

test('a cancelled order is answered to its retry, not made anew', async () => {
  const userId = newUser();
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'cancelled'));
  await order.client.cancelOrder({ orderId: made?.orderId ?? 0n, userId });
  bench.stock.script = () => ({ $case: 'adopted', value: { orderId: made?.orderId ?? 0n } });
  const again = await order.client.createOrder(orderRequest(userId, 'cancelled'));
  assert.equal(again.order?.orderId, made?.orderId);
  assert.equal(again.order?.status, OrderStatus.ORDER_STATUS_CANCELLED);
});

test('an adopted id that is fenced is released, and the request starts over under a new id', async () => {
  const userId = newUser();
  let first = 0n;
  bench.stock.script = async ({ orderId }) => {
    if (first !== 0n) return undefined;
    first = orderId;
    await fence(orderId);
    return { $case: 'adopted', value: { orderId } };
  };
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'fenced'));
  assert.deepEqual(bench.stock.released, [first]);
  assert.notEqual(made?.orderId, first);
});

test('a dead id is fenced first, then released, then replaced', async () => {
  const userId = newUser();
  const steps: string[] = [];
  let first = 0n;
  bench.stock.script = ({ orderId }) => {
    steps.push('reserve');
    if (first !== 0n) return undefined;
    first = orderId;
    return { $case: 'dead', value: {} };
  };
  failpoints.set('order.after_abort_insert', () => void steps.push('fence'));
  failpoints.set('order.before_release', () => void steps.push('release'));
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'dead'));
  assert.deepEqual(steps, ['reserve', 'fence', 'release', 'reserve']);
  assert.notEqual(made?.orderId, first);
  const [row] = await bench.orderRows(`order_id = ${first}`);
  assert.deepEqual([row?.status, row?.request_id, row?.user_id], [8, null, '0']);
});

test('an order that was fenced between its reservation and its insert starts over, its hold released', async () => {
  const userId = newUser();
  let fenced = 0n;
  failpoints.set('order.before_begin', async ({ orderIds }) => {
    if (fenced !== 0n) return;
    fenced = (orderIds as bigint[])[0] ?? 0n;
    await fence(fenced);
  });
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'late'));
  assert.deepEqual(bench.stock.released, [fenced]);
  assert.notEqual(made?.orderId, fenced);
  assert.deepEqual((await ordersOf(userId)).length, 1);
});

test('an id called dead whose order lives is answered with that order, and nothing is released', async () => {
  const userId = newUser();
  let first = 0n;
  bench.stock.script = async ({ orderId, requestId, fingerprint }) => {
    first = orderId;
    // Another copy has gone on with this id and committed; stock has let the hold go meanwhile.
    const { database, table } = order.shards.placeOfOrder(orderId);
    await bench.sql(
      database.index,
      `INSERT INTO orders_${table} (order_id, user_id, request_id, fingerprint, status, create_time,
         expire_time, update_time)
       VALUES (${orderId}, ${userId}, '${requestId}', X'${fingerprint.toString('hex')}', 1, NOW(3), NOW(3), NOW(3))`,
    );
    return { $case: 'dead', value: {} };
  };
  const answered = await order.client.createOrder(orderRequest(userId, 'alive'));
  assert.equal(answered.order?.orderId, first);
  assert.equal(answered.replayed, true);
  assert.deepEqual(bench.stock.released, []);
});

test('a request that dies twice is unknown, not refused', async () => {
  bench.stock.script = () => ({ $case: 'dead', value: { lockedSkuId: 0n } });
  await assert.rejects(order.client.createOrder(orderRequest(newUser(), 'twice')), {
    reason: 'OUTCOME_UNKNOWN',
  });
  assert.equal(new Set(bench.stock.released).size, 2);
});

test('an id that belongs to somebody else is replaced, a bounded number of times', async () => {
  const asked = new Set<bigint>();
  bench.stock.script = ({ orderId }) => {
    asked.add(orderId);
    return asked.size < 3 ? { $case: 'idTaken', value: {} } : undefined;
  };
  const { order: made } = await order.client.createOrder(orderRequest(newUser(), 'taken'));
  assert.equal(asked.size, 3);
  assert.ok(asked.has(made?.orderId ?? 0n));
  bench.stock.script = () => ({ $case: 'idTaken', value: { lockedSkuId: 0n } });
  await assert.rejects(order.client.createOrder(orderRequest(newUser(), 'always')), {
    reason: 'OUTCOME_UNKNOWN',
  });
  assert.deepEqual(bench.stock.released, []);
});

test('an id whose row is another user’s order is replaced and never released', async () => {
  const owner = await order.client.createOrder(orderRequest(newUser(), 'owner'));
  const userId = newUser();
  let first: StockReservation | undefined;
  failpoints.set('order.before_begin', async ({ orderIds }) => {
    if (first === undefined) return;
    const { database, table } = order.shards.placeOfOrder((orderIds as bigint[])[0] ?? 0n);
    const [id] = orderIds as bigint[];
    if (id !== first.orderId) return;
    await bench.sql(
      database.index,
      `INSERT INTO orders_${table} (order_id, user_id, request_id, fingerprint, status, create_time,
       expire_time, update_time) VALUES (${id}, 999, 'other', REPEAT('x', 16), 1, NOW(3), NOW(3), NOW(3))`,
    );
    // The fake remembers the id for the request, so forget it as a collision would have.
    bench.stock.records.delete(`${userId}/collision`);
  });
  bench.stock.script = (reservation) => {
    first ??= reservation;
    return undefined;
  };
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'collision'));
  assert.notEqual(made?.orderId, first?.orderId);
  assert.notEqual(made?.orderId, owner.order?.orderId);
  assert.deepEqual(bench.stock.released, []);
});

test('a refusal without a look-up is passed on with its SKU', async () => {
  bench.stock.script = () => refusedOutcome(RefusalReason.REFUSAL_REASON_SOLD_OUT, { skuId: 1n });
  await assert.rejects(order.client.createOrder(orderRequest(newUser(), 'sold')), {
    reason: 'SOLD_OUT',
    skuId: 1n,
  });
});

test('a refusal that asks for a look-up is overruled by the order of an earlier attempt', async () => {
  const userId = newUser();
  const first = await order.client.createOrder(orderRequest(userId, 'lives'));
  bench.stock.script = () =>
    refusedOutcome(RefusalReason.REFUSAL_REASON_SALE_ENDED, { lookUp: true });
  const again = await order.client.createOrder(orderRequest(userId, 'lives'));
  assert.deepEqual(again, { order: first.order, replayed: true });
  await assert.rejects(order.client.createOrder(orderRequest(userId, 'none')), {
    reason: 'SALE_ENDED',
  });
  await assert.rejects(
    order.client.createOrder(orderRequest(userId, 'lives', [{ skuId: 8n, quantity: 1 }])),
    { reason: 'IDEMPOTENCY_KEY_REUSED' },
  );
});

test('an adopted id is never told that nothing was done', async () => {
  const passing = [
    RefusalReason.REFUSAL_REASON_OVERLOADED,
    RefusalReason.REFUSAL_REASON_DEPENDENCY_DOWN,
    RefusalReason.REFUSAL_REASON_STOCK_NOT_LOADED,
  ];
  for (const reason of passing) {
    let asked = 0;
    bench.stock.script = ({ orderId }) => {
      asked += 1;
      if (asked > 1) return refusedOutcome(reason, {});
      return { $case: 'adopted', value: { orderId: orderId - 4096n * 1024n } };
    };
    await assert.rejects(order.client.createOrder(orderRequest(newUser(), `adopted ${reason}`)), {
      reason: 'OUTCOME_UNKNOWN',
    });
    assert.equal(asked, 2);
  }
});

test('a refused retry waits for the insert of its first attempt and answers its order', async (t) => {
  const userId = newUser();
  const other = await bench.start();
  waitLongForLocks(other);
  let letCommit: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (letCommit = resolve));
  t.after(() => letCommit());
  let inserting = false;
  failpoints.set('order.before_commit', async () => {
    inserting = true;
    await held;
  });
  const first = order.client.createOrder(orderRequest(userId, 'in flight'));
  await eventually(() => inserting, 'the first attempt is about to commit');
  let lookingUp = false;
  failpoints.set('order.before_look_up', () => {
    lookingUp = true;
  });
  bench.stock.script = () =>
    refusedOutcome(RefusalReason.REFUSAL_REASON_SOLD_OUT, { lookUp: true });
  const retry = other.client.createOrder(orderRequest(userId, 'in flight'));
  await eventually(() => lookingUp, 'the retry looks the request up');
  letCommit();
  assert.deepEqual(await retry, { order: (await first).order, replayed: true });
  await other.stop();
});

test('a look-up that meets a lock for too long is unknown, never a refusal', async (t) => {
  const userId = newUser();
  const other = await bench.start();
  let letCommit: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (letCommit = resolve));
  t.after(() => letCommit());
  let inserting = false;
  failpoints.set('order.before_commit', async () => {
    inserting = true;
    await held;
  });
  const first = order.client.createOrder(orderRequest(userId, 'locked'));
  await eventually(() => inserting, 'the first attempt is about to commit');
  bench.stock.script = () =>
    refusedOutcome(RefusalReason.REFUSAL_REASON_SOLD_OUT, { lookUp: true });
  await assert.rejects(other.client.createOrder(orderRequest(userId, 'locked')), {
    reason: 'OUTCOME_UNKNOWN',
  });
  letCommit();
  await first;
  await other.stop();
});

test('an unknown reservation is an unknown order, and nothing is undone', async () => {
  bench.stock.script = () => ({ $case: 'unknown', value: { lockedSkuId: 0n } });
  await assert.rejects(order.client.createOrder(orderRequest(newUser(), 'unknown')), {
    reason: 'OUTCOME_UNKNOWN',
  });
  assert.deepEqual(bench.stock.released, []);
});

test('a hold with other lines, no price or two currencies never becomes an order', async () => {
  const unitPrice = { currencyCode: 'EUR', minorUnits: 100n };
  const answers = [
    [],
    [{ skuId: 2n, quantity: 1, unitPrice }],
    [{ skuId: 1n, quantity: 2, unitPrice }],
    [{ skuId: 1n, quantity: 1, unitPrice: undefined }],
    [{ skuId: 1n, quantity: 1, unitPrice: { currencyCode: "E'R", minorUnits: 100n } }],
    [{ skuId: 1n, quantity: 1, unitPrice: { currencyCode: 'EUR', minorUnits: -1n } }],
  ];
  for (const lines of answers) {
    const userId = newUser();
    bench.stock.script = () => ({ $case: 'reserved', value: { lines } });
    await assert.rejects(order.client.createOrder(orderRequest(userId, 'odd')), {
      reason: 'OUTCOME_UNKNOWN',
    });
    assert.equal((await ordersOf(userId)).length, 0);
  }
});

test('a commit whose answer is lost is unknown; the retry finds the order', async () => {
  const userId = newUser();
  failpoints.set('order.after_commit', () => {
    throw new Error('the answer is lost');
  });
  await assert.rejects(order.client.createOrder(orderRequest(userId, 'lost')), {
    reason: 'OUTCOME_UNKNOWN',
  });
  failpoints.clear();
  const again = await order.client.createOrder(orderRequest(userId, 'lost'));
  assert.equal(again.replayed, true);
  assert.equal((await ordersOf(userId)).length, 1);
  assert.deepEqual(bench.stock.released, []);
});
