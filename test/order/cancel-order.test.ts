import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { statusName } from '../../services/order/order.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import {
  byVersion,
  type OrderBench,
  type OrderProcess,
  orderRequest,
  startOrderBench,
} from './support.ts';

/** What the fake stock charges for one unit of SKU 1. */
const price = { currencyCode: 'EUR', minorUnits: 100n };

/** With the creation below the streams that one connection may have; more are refused by HTTP/2. */
const callsAtOnce = 1_990;

let bench: OrderBench;
let order: OrderProcess;
let other: OrderProcess;

before(async () => {
  bench = await startOrderBench('cancel');
  order = await bench.start();
  other = await bench.start();
});
afterEach(() => {
  failpoints.clear();
  bench.payment.onClose = () => 'CLOSED';
  bench.payment.onRefund = () => true;
});
after(() => bench.stop());

async function create(userId: bigint): Promise<bigint> {
  const { order: made } = await order.client.createOrder(orderRequest(userId, 'cancel'));
  return made?.orderId ?? 0n;
}

async function setStatus(orderId: bigint, status: OrderStatus): Promise<void> {
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `UPDATE orders_${table} SET status = ${status}, version = version + 1 WHERE order_id = ${orderId}`,
  );
}

let users = 40n;
async function begin(orderId: bigint, userId: bigint): Promise<void> {
  await order.client.beginPayment({ orderId, userId });
}

async function pay(orderId: bigint): Promise<void> {
  await order.client.recordPayment({ orderId, paymentId: 5n, amount: price });
}

async function statesOf(orderId: bigint): Promise<string[]> {
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 0n });
  return transitions.map(({ toStatus }) => statusName(toStatus));
}

test('a pending order is cancelled with its reason, history and event', async () => {
  const orderId = await create(1n);
  const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: 1n });
  assert.equal(cancelled?.status, OrderStatus.ORDER_STATUS_CANCELLED);
  assert.equal(cancelled?.closeReason, CloseReason.CLOSE_REASON_USER);
  assert.equal(cancelled?.version, 2);
  const { order: read } = await order.client.getOrder({ orderId, userId: 1n });
  assert.deepEqual(read, cancelled);
  await eventually(() => bench.eventsOf(orderId).length >= 2, 'both events are published');
  const events = byVersion(bench.eventsOf(orderId));
  assert.deepEqual(
    events.map(({ version, status }) => [version, status]),
    [
      [1, OrderStatus.ORDER_STATUS_PENDING],
      [2, OrderStatus.ORDER_STATUS_CANCELLED],
    ],
  );
  assert.deepEqual(events[1]?.items, cancelled?.items);
});

test('cancelling again answers the order unchanged and leaves no second event', async () => {
  const orderId = await create(2n);
  const first = await order.client.cancelOrder({ orderId, userId: 2n });
  const second = await order.client.cancelOrder({ orderId, userId: 2n });
  assert.deepEqual(second, first);
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 2n });
  assert.equal(transitions.length, 2);
});

for (const name of ['REFUNDING', 'REFUNDED'] as const) {
  test(`an order that is ${name} is answered as it is, and payment is not asked`, async () => {
    const userId = 10n + BigInt(OrderStatus[`ORDER_STATUS_${name}`]);
    const orderId = await create(userId);
    await setStatus(orderId, OrderStatus[`ORDER_STATUS_${name}`]);
    const { order: answered } = await order.client.cancelOrder({ orderId, userId });
    assert.equal(answered?.status, OrderStatus[`ORDER_STATUS_${name}`]);
    assert.equal(answered?.version, 2);
    assert.ok(!bench.payment.refunded.includes(orderId));
  });
}

test('a ticket that is no order yet cannot be cancelled', async () => {
  const orderId = await create(20n);
  await setStatus(orderId, OrderStatus.ORDER_STATUS_QUEUED);
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 20n }), {
    reason: 'ILLEGAL_TRANSITION',
  });
});

test('an order whose payment has not begun is cancelled without payment', async () => {
  const orderId = await create(21n);
  bench.payment.onClose = () => assert.fail('payment was asked');
  await order.client.cancelOrder({ orderId, userId: 21n });
  assert.ok(!bench.payment.closed.includes(orderId));
});

test('a begun payment is voided first; only then is the order cancelled', async () => {
  const orderId = await create(22n);
  await order.client.beginPayment({ orderId, userId: 22n });
  let statusAtClose: OrderStatus | undefined;
  bench.payment.onClose = async () => {
    const { order: read } = await order.client.getOrder({ orderId, userId: 22n });
    statusAtClose = read?.status;
    return 'CLOSED' as const;
  };
  const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: 22n });
  assert.equal(statusAtClose, OrderStatus.ORDER_STATUS_PENDING);
  assert.equal(cancelled?.status, OrderStatus.ORDER_STATUS_CANCELLED);
  assert.equal(cancelled?.closeReason, CloseReason.CLOSE_REASON_USER);
});

test('while payment cannot say that a session is void, the order stays pending', async () => {
  const orderId = await create(23n);
  await order.client.beginPayment({ orderId, userId: 23n });
  bench.payment.onClose = () => {
    throw new Refusal('OUTCOME_UNKNOWN');
  };
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 23n }), {
    reason: 'OUTCOME_UNKNOWN',
  });
  const { order: read } = await order.client.getOrder({ orderId, userId: 23n });
  assert.equal(read?.status, OrderStatus.ORDER_STATUS_PENDING);
  bench.payment.onClose = () => 'CLOSED';
  const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: 23n });
  assert.equal(cancelled?.version, 2);
});

test('an order whose payment the bank is processing is not cancelled, and its buyer is told so at once', async () => {
  const orderId = await create(30n);
  await begin(orderId, 30n);
  bench.payment.onClose = () => 'PROCESSING';
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 30n }), (error: Refusal) => {
    assert.equal(error.reason, 'ILLEGAL_TRANSITION');
    assert.match(error.message, /being processed by the bank .* paid or closed by its outcome/);
    return true;
  });
  assert.deepEqual(await statesOf(orderId), ['PENDING']);
  assert.equal(bench.payment.closed.filter((asked) => asked === orderId).length, 1);
  // The debit was refused meanwhile.
  bench.payment.onClose = () => 'CLOSED';
  const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: 30n });
  assert.equal(cancelled?.closeReason, CloseReason.CLOSE_REASON_USER);
});

test('an order whose payment turns out paid is refunded instead, once it is recorded', async () => {
  const orderId = await create(24n);
  await order.client.beginPayment({ orderId, userId: 24n });
  bench.payment.onClose = () => {
    // The payment is told to the order a little after it was found to be paid.
    setTimeout(() => void pay(orderId), 60);
    return 'PAID';
  };
  const { order: answered } = await order.client.cancelOrder({ orderId, userId: 24n });
  assert.equal(answered?.status, OrderStatus.ORDER_STATUS_REFUNDING);
  assert.deepEqual(await statesOf(orderId), ['PENDING', 'PAID', 'REFUNDING']);
  assert.equal(bench.payment.refunded.filter((id) => id === orderId).length, 1);
});

test('an order whose payment is paid but never told is unknown, not cancelled', async () => {
  const orderId = await create(25n);
  await order.client.beginPayment({ orderId, userId: 25n });
  bench.payment.onClose = () => 'PAID';
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 25n }), {
    reason: 'OUTCOME_UNKNOWN',
  });
  assert.deepEqual(await statesOf(orderId), ['PENDING']);
});

test('a paid order is refunded: payment has it on record before the order says so', async () => {
  const orderId = await create(26n);
  await pay(orderId);
  let statusAtRefund: OrderStatus | undefined;
  let asked = 0;
  bench.payment.onRefund = async () => {
    const { order: read } = await order.client.getOrder({ orderId, userId: 26n });
    statusAtRefund = read?.status;
    asked += 1;
    // At first payment has not written down yet that this payment is the order's.
    return asked > 2;
  };
  const { order: answered } = await order.client.cancelOrder({ orderId, userId: 26n });
  assert.equal(statusAtRefund, OrderStatus.ORDER_STATUS_PAID);
  assert.equal(answered?.status, OrderStatus.ORDER_STATUS_REFUNDING);
  assert.equal(asked, 3);
  const again = await order.client.cancelOrder({ orderId, userId: 26n });
  assert.deepEqual(again.order, answered);
  assert.equal(asked, 3);
});

test('while payment cannot take the refund on record, a paid order stays paid', async () => {
  const orderId = await create(27n);
  await pay(orderId);
  bench.payment.onRefund = () => {
    throw new Refusal('OUTCOME_UNKNOWN');
  };
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 27n }), {
    reason: 'OUTCOME_UNKNOWN',
  });
  assert.deepEqual(await statesOf(orderId), ['PENDING', 'PAID']);
});

for (const [what, prepare] of [
  ['its session is void', (orderId: bigint, userId: bigint) => begin(orderId, userId)],
  ['its refund is on record', (orderId: bigint) => pay(orderId)],
] as const) {
  test(`once ${what}, a cancel that cannot change the order is unknown, never "nothing was done"`, async () => {
    users += 1n;
    const userId = users;
    const orderId = await create(userId);
    await prepare(orderId, userId);
    const { database, table } = order.shards.placeOfOrder(orderId);
    // Somebody holds the order's row from the moment that payment has answered.
    const lock = async (): Promise<void> => {
      await bench.sql(database.index, 'START TRANSACTION');
      const row = `SELECT 1 FROM orders_${table} WHERE order_id = ${orderId} FOR UPDATE`;
      await bench.sql(database.index, row);
    };
    bench.payment.onClose = () => lock().then(() => 'CLOSED' as const);
    bench.payment.onRefund = () => lock().then(() => true);
    try {
      await assert.rejects(order.client.cancelOrder({ orderId, userId }), {
        reason: 'OUTCOME_UNKNOWN',
      });
    } finally {
      await bench.sql(database.index, 'ROLLBACK');
    }
    bench.payment.onClose = () => 'CLOSED';
    bench.payment.onRefund = () => true;
    const { order: closed } = await order.client.cancelOrder({ orderId, userId });
    assert.notEqual(closed?.status, OrderStatus.ORDER_STATUS_PENDING);
    assert.notEqual(closed?.status, OrderStatus.ORDER_STATUS_PAID);
  });
}

test('another user can neither cancel an order nor have it refunded', async () => {
  const orderId = await create(28n);
  await pay(orderId);
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 29n }), { reason: 'NOT_FOUND' });
  assert.ok(!bench.payment.refunded.includes(orderId));
});

test('many cancels at once over two processes make one transition', async () => {
  const orderId = await create(3n);
  const calls = Array.from({ length: 200 }, (_, index) =>
    (index % 2 ? order : other).client.cancelOrder({ orderId, userId: 3n }),
  );
  const answers = await Promise.all(calls);
  for (const { order: cancelled } of answers) assert.equal(cancelled?.version, 2);
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 3n });
  assert.equal(transitions.length, 2);
  await eventually(() => bench.eventsOf(orderId).length >= 2, 'both events are published');
  assert.equal(bench.eventsOf(orderId).length, 2);
});

test('a cancel that loses the race against a payment refunds what it finds paid', async () => {
  const orderId = await create(4n);
  const { database } = order.shards.placeOfOrder(orderId);
  const transaction = database.transaction.bind(database);
  let raced = false;
  // The payment commits after the cancel was taken in and before it has the order's lock.
  database.transaction = (async (options, work) => {
    if (!raced) {
      raced = true;
      await other.client.recordPayment({ orderId, paymentId: 5n, amount: price });
    }
    return await transaction(options, work);
  }) as typeof database.transaction;
  try {
    const { order: answered } = await order.client.cancelOrder({ orderId, userId: 4n });
    assert.equal(answered?.status, OrderStatus.ORDER_STATUS_REFUNDING);
  } finally {
    database.transaction = transaction;
  }
  assert.equal(raced, true);
  assert.deepEqual(await statesOf(orderId), ['PENDING', 'PAID', 'REFUNDING']);
});

test('nearly 2,000 cancels at once leave the creation of orders alive', async () => {
  const orderId = await create(5n);
  const cancels = Array.from({ length: callsAtOnce }, () =>
    order.client.cancelOrder({ orderId, userId: 5n }).then(
      () => 'cancelled',
      (error) => error.reason as string,
    ),
  );
  const created = await order.client.createOrder(orderRequest(6n, 'meanwhile'));
  assert.equal(created.order?.userId, 6n);
  const answers = new Set(await Promise.all(cancels));
  assert.ok(answers.has('cancelled'));
  for (const answer of answers) assert.ok(['cancelled', 'OVERLOADED'].includes(answer), answer);
});
