import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import type { RowDataPacket } from 'mysql2/promise';
import { OutboxBatch } from '../../gen/sluice/event/v1/outbox.ts';
import type { CreateOrderResult } from '../../gen/sluice/order/v1/order_service.ts';
import { RefusalReason } from '../../gen/sluice/stock/v1/refusal.ts';
import { slotOfUser } from '../../services/order/order-id.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { reservedOutcome } from './fake-stock.ts';
import {
  type OrderBench,
  type OrderProcess,
  orderRequest,
  startOrderBench,
  within,
} from './support.ts';

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('insert');
  order = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.stock.script = () => undefined;
  bench.stock.released.length = 0;
  bench.published.length = 0;
});
after(() => bench.stop());

function createdOf(result: CreateOrderResult | undefined) {
  assert.equal(result?.outcome?.$case, 'created');
  return result.outcome.value;
}

function reasonOf(result: CreateOrderResult | undefined): RefusalReason {
  assert.equal(result?.outcome?.$case, 'refusal');
  return result.outcome.value.reason;
}

/** The rows of both databases. */
async function outbox(): Promise<RowDataPacket[]> {
  const rows = [0, 1].map((index) => bench.sql(index, 'SELECT * FROM outbox'));
  return (await Promise.all(rows)).flat();
}

async function untilOutboxesEmpty(): Promise<void> {
  await eventually(async () => (await outbox()).length === 0, 'earlier events are published');
}

/** A user of a slot in the given database. */
function usersOf(database: number, count: number, from: bigint): bigint[] {
  const users: bigint[] = [];
  for (let user = from; users.length < count; user += 1n) {
    if (order.shards.databaseOf(slotOfUser(user)) === database) users.push(user);
  }
  return users;
}

test('in a batch of 500 one refused row, one order that cannot be written and one duplicate are answered by themselves and 497 are created', async () => {
  const users = usersOf(0, 500, 10_000n);
  const [hugeUser, repeatedUser, badUser] = [users[100], users[200], users[300]];
  const { table } = order.shards.place(slotOfUser(badUser!));
  await bench.sql(
    0,
    `CREATE TRIGGER refuses BEFORE INSERT ON orders_${table} FOR EACH ROW
     IF NEW.user_id = ${badUser} THEN SIGNAL SQLSTATE '45000'; END IF`,
  );
  const first = await order.client.createOrder(orderRequest(repeatedUser!, 'batch'));
  bench.stock.script = (reservation) => {
    if (reservation.userId !== hugeUser) return reservedOutcome(reservation);
    // Its total fits neither the event nor the column.
    const unitPrice = { currencyCode: 'EUR', minorUnits: 2n ** 63n - 1n };
    const lines = reservation.lines.map((line) => ({ ...line, unitPrice }));
    return { $case: 'reserved', value: { lines } };
  };
  const requests = users.map((user) =>
    orderRequest(user, 'batch', [{ skuId: 1n, quantity: user === hugeUser ? 2 : 1 }]),
  );
  const { results } = await order.client.batchCreateOrders({ requests });
  assert.equal(results.length, 500);
  for (const [index, result] of results.entries()) {
    const user = users[index];
    if (user === badUser || user === hugeUser) {
      assert.equal(reasonOf(result), RefusalReason.REFUSAL_REASON_OUTCOME_UNKNOWN);
    } else if (user === repeatedUser) {
      assert.deepEqual(createdOf(result), { order: first.order, replayed: true });
    } else {
      assert.equal(createdOf(result).order?.userId, user);
      assert.equal(createdOf(result).replayed, false);
    }
  }
  const rows = await bench.orderRows(`user_id IN (${users})`);
  await bench.sql(0, 'DROP TRIGGER refuses');
  assert.equal(rows.length, 498);
  assert.equal(bench.stock.released.length, 1);
  const keys = () => new Set(bench.published.map(({ key }) => key));
  await eventually(() => keys().size >= 498, 'the events are published');
  assert.deepEqual(keys(), new Set(rows.map((row) => String(row.order_id))));
});

test('two copies of one request in a batch make one order, and both are answered with it', async () => {
  const requests = [
    orderRequest(21n, 'copies'),
    orderRequest(22n, 'x'),
    orderRequest(21n, 'copies'),
  ];
  const { results } = await order.client.batchCreateOrders({ requests });
  const [one, , two] = results.map(createdOf);
  assert.equal(one?.order?.orderId, two?.order?.orderId);
  assert.deepEqual([one?.replayed, two?.replayed], [false, true]);
  assert.equal((await bench.orderRows('user_id = 21')).length, 1);
});

test('of two copies with different content in a batch one is an order and the other an error', async () => {
  const requests = [
    orderRequest(23n, 'differ', [{ skuId: 1n, quantity: 1 }]),
    orderRequest(23n, 'differ', [{ skuId: 1n, quantity: 2 }]),
  ];
  const { results } = await order.client.batchCreateOrders({ requests });
  assert.equal(createdOf(results[0]).replayed, false);
  assert.equal(reasonOf(results[1]), RefusalReason.REFUSAL_REASON_IDEMPOTENCY_KEY_REUSED);
});

test('an invalid entry is answered with its fields and does not touch the others', async () => {
  const requests = [
    orderRequest(24n, 'valid'),
    orderRequest(24n, 'invalid', [
      { skuId: 1n, quantity: 1 },
      { skuId: 0n, quantity: 1 },
    ]),
  ];
  const { results } = await order.client.batchCreateOrders({ requests });
  assert.equal(createdOf(results[0]).order?.userId, 24n);
  assert.equal(results[1]?.outcome?.$case, 'refusal');
  assert.deepEqual(
    results[1].outcome.value.violations.map(({ field }) => field),
    ['lines[1].sku_id'],
  );
});

test('a batch leaves one outbox row in each database, with one event for each of its orders', async (t) => {
  await untilOutboxesEmpty();
  let stopped: () => void = () => undefined;
  const paused = new Promise<void>((resolve) => (stopped = resolve));
  t.after(() => stopped());
  failpoints.set('relay.before_publish', () => paused);
  const requests = Array.from({ length: 100 }, (_, index) =>
    orderRequest(BigInt(30_000 + index), 'outbox'),
  );
  const { results } = await order.client.batchCreateOrders({ requests });
  const rows = await outbox();
  const events = rows.flatMap((row) => OutboxBatch.decode(row.payload as Buffer).messages);
  stopped();
  assert.equal(rows.length, 2);
  assert.deepEqual(
    new Set(events.map(({ key }) => key)),
    new Set(results.map((result) => createdOf(result).order?.orderId)),
  );
});

/** What the edge gives a batch of buyers; a round is repeated on a machine that stands still for as long. */
const edgeBudgetMs = 2_000;
const roundsMax = 5;

test('an order blocked by another process’s lock leaves the others of its batch their budget', async () => {
  const other = await bench.start();
  let round = 0;
  for (; round < roundsMax; round += 1) {
    const made = await roundWithBlockedOrder(other, 40_000n + BigInt(round * 1_000));
    if (made === 99) break;
  }
  await other.stop();
  assert.ok(round < roundsMax, 'the others were made in none of the rounds');
});

/** Answers how many of 99 orders were made beside one whose first attempt is about to commit. */
async function roundWithBlockedOrder(other: OrderProcess, firstUser: bigint): Promise<number> {
  let letCommit: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (letCommit = resolve));
  let inserting = false;
  failpoints.set('order.before_commit', async () => {
    inserting = true;
    failpoints.clear('order.before_commit');
    await held;
  });
  const [blocked, ...free] = usersOf(0, 100, firstUser);
  const first = other.client.createOrder(orderRequest(blocked!, 'blocked'));
  try {
    await eventually(() => inserting, 'the first attempt is about to commit');
    // Redis has forgotten the first attempt, so its copy comes with an id of its own, among new orders.
    bench.stock.script = reservedOutcome;
    const requests = [blocked!, ...free].map((user) => orderRequest(user, 'blocked'));
    const { results } = await order.client.batchCreateOrders({ requests }, within(edgeBudgetMs));
    assert.equal(reasonOf(results[0]), RefusalReason.REFUSAL_REASON_OUTCOME_UNKNOWN);
    return results.slice(1).filter(({ outcome }) => outcome?.$case === 'created').length;
  } finally {
    letCommit();
    const { order: made } = await first;
    const again = await order.client.createOrder(orderRequest(blocked!, 'blocked'));
    assert.deepEqual(again, { order: made, replayed: true });
  }
}

test('retries that wait for another process’s lock do not hold up new orders', async (t) => {
  const other = await bench.start();
  let letCommit: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (letCommit = resolve));
  let letWait: () => void = () => undefined;
  const answered = new Promise<void>((resolve) => (letWait = resolve));
  t.after(() => {
    letWait();
    letCommit();
  });
  let writing: bigint[] = [];
  failpoints.set('order.before_commit', async ({ orderIds }) => {
    writing = orderIds as bigint[];
    failpoints.clear('order.before_commit');
    await held;
  });
  const [one, two, fresh] = usersOf(0, 3, 45_000n);
  const requests = [orderRequest(one!, 'retried'), orderRequest(two!, 'retried')];
  const first = other.client.batchCreateOrders({ requests });
  await eventually(() => writing.length === 2, 'the first attempts are about to commit');
  // The retries take the batch that may be under way in their lane. A wait for a lock ends by itself
  // after a second or two; this one lasts until the new order is answered.
  let begun = 0;
  failpoints.set('order.before_begin', async ({ orderIds }) => {
    if (!(orderIds as bigint[]).some((orderId) => writing.includes(orderId))) return;
    begun += 1;
    await answered;
  });
  const retries = requests.map((request) =>
    order.client.createOrder(request).catch(() => undefined),
  );
  await eventually(() => begun > 0, 'a retry is being inserted');
  const placed = await order.client.createOrder(orderRequest(fresh!, 'fresh'));
  assert.equal(placed.replayed, false);
  letWait();
  letCommit();
  await Promise.all([first, ...retries]);
  await other.stop();
});

test('a server that dies in the middle of a transaction leaves all of its orders unknown and none stored', async () => {
  const users = usersOf(1, 5, 50_000n);
  failpoints.set('order.before_commit', async ({ orderIds }) => {
    if ((orderIds as bigint[]).length === 0) return;
    failpoints.clear('order.before_commit');
    // All of them: a connection whose last statement was answered a moment ago may still look busy.
    const ours = async () =>
      await bench.sql(
        1,
        `SELECT ID FROM information_schema.PROCESSLIST
         WHERE DB = '${bench.prefix}_order_1' AND ID <> CONNECTION_ID()`,
      );
    const threads = await ours();
    for (const { ID } of threads) await bench.sql(1, `KILL ${ID}`).catch(() => undefined);
    const killed = new Set(threads.map(({ ID }) => String(ID)));
    const gone = async () => (await ours()).every(({ ID }) => !killed.has(String(ID)));
    await eventually(gone, 'the transaction’s connection is dead');
  });
  const requests = users.map((user) => orderRequest(user, 'killed'));
  const { results } = await order.client.batchCreateOrders({ requests });
  for (const result of results) {
    assert.equal(reasonOf(result), RefusalReason.REFUSAL_REASON_OUTCOME_UNKNOWN);
  }
  assert.equal((await bench.orderRows(`user_id IN (${users})`)).length, 0);
  const again = await order.client.batchCreateOrders({ requests });
  for (const result of again.results) assert.ok(createdOf(result).order);
  assert.equal((await bench.orderRows(`user_id IN (${users})`)).length, 5);
});

test('while an outbox is over its bound, orders of its database are refused as overloaded', async () => {
  await untilOutboxesEmpty();
  const guarded = await bench.start({ outboxRowsMax: 1 });
  failpoints.set('relay.before_publish', () => {
    throw new Error('Kafka is away');
  });
  const [user, next] = usersOf(0, 2, 60_000n);
  const { order: made } = await guarded.client.createOrder(orderRequest(user!, 'fills'));
  let tried = 0;
  await eventually(async () => {
    tried += 1;
    const { results } = await guarded.client.batchCreateOrders({
      requests: [orderRequest(user!, `fills ${tried}`)],
    });
    return results[0]?.outcome?.$case === 'refusal';
  }, 'orders are refused');
  const retry = await guarded.client.createOrder(orderRequest(user!, 'fills'));
  assert.deepEqual(retry, { order: made, replayed: true }, 'a retry is answered its order');
  await assert.rejects(
    guarded.client.createOrder(orderRequest(user!, 'fills', [{ skuId: 2n, quantity: 1 }])),
    { reason: 'IDEMPOTENCY_KEY_REUSED' },
  );
  await assert.rejects(guarded.client.createOrder(orderRequest(next!, 'refused')), {
    reason: 'OVERLOADED',
  });
  failpoints.clear();
  await eventually(
    () =>
      guarded.client.createOrder(orderRequest(next!, 'refused')).then(
        () => true,
        () => false,
      ),
    'orders are taken again',
  );
  await guarded.stop();
});
