import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { decodePageToken, encodePageToken } from '../../services/order/list-orders.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('reads');
  order = await bench.start();
});
after(() => bench.stop());

async function createMany(userId: bigint, count: number): Promise<bigint[]> {
  const requests = Array.from({ length: count }, (_, index) =>
    orderRequest(userId, `order ${index}`, [
      { skuId: 2n, quantity: 1 },
      { skuId: BigInt(10 + index), quantity: 2 },
    ]),
  );
  const { results } = await order.client.batchCreateOrders({ requests });
  return results.map(({ outcome }) => {
    assert.equal(outcome?.$case, 'created');
    return outcome.value.order?.orderId ?? 0n;
  });
}

async function fenceOf(userId: bigint, orderId: bigint): Promise<void> {
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `UPDATE orders_${table} SET status = 8, user_id = ${userId} WHERE order_id = ${orderId}`,
  );
}

test('pages show every order of a user once, newest first, on every shard', async () => {
  const users = [11n, 12n, 13n, 14n, 15n];
  for (const userId of users) {
    const ids = await createMany(userId, 23);
    const shown: bigint[] = [];
    let pageToken = '';
    let pages = 0;
    do {
      const page = await order.client.listOrders({ userId, pageSize: 5, pageToken });
      assert.ok(page.orders.length <= 5);
      for (const { orderId, userId: owner, items } of page.orders) {
        shown.push(orderId);
        assert.equal(owner, userId);
        assert.equal(items.length, 2);
      }
      pageToken = page.nextPageToken;
      pages += 1;
    } while (pageToken !== '');
    assert.equal(pages, 5);
    assert.deepEqual(
      shown,
      ids.sort((a, b) => (a > b ? -1 : 1)),
    );
  }
});

test('a page stays what it is when newer orders come in between', async () => {
  const userId = 21n;
  await createMany(userId, 10);
  const first = await order.client.listOrders({ userId, pageSize: 4, pageToken: '' });
  const before = await order.client.listOrders({
    userId,
    pageSize: 4,
    pageToken: first.nextPageToken,
  });
  await order.client.createOrder(orderRequest(userId, 'newer'));
  const again = await order.client.listOrders({
    userId,
    pageSize: 4,
    pageToken: first.nextPageToken,
  });
  assert.deepEqual(again, before);
});

test('without a page size 20 orders are shown; a last page that is full has no next one', async () => {
  const userId = 22n;
  await createMany(userId, 40);
  const first = await order.client.listOrders({ userId, pageSize: 0, pageToken: '' });
  assert.equal(first.orders.length, 20);
  const second = await order.client.listOrders({
    userId,
    pageSize: 0,
    pageToken: first.nextPageToken,
  });
  assert.equal(second.orders.length, 20);
  assert.equal(second.nextPageToken, '');
});

test('a user without orders gets an empty page', async () => {
  const page = await order.client.listOrders({ userId: 23n, pageSize: 0, pageToken: '' });
  assert.deepEqual(page, { orders: [], nextPageToken: '' });
});

test('a page token of another user, a cut one and an invented one are refused by field', async () => {
  const token = encodePageToken(11n, 12_345n);
  assert.equal(decodePageToken(11n, token), 12_345n);
  for (const pageToken of [
    encodePageToken(12n, 12_345n),
    token.slice(0, -1),
    `${token}A`,
    '!!',
    'AAAA',
  ]) {
    assert.equal(decodePageToken(11n, pageToken), undefined);
    await assert.rejects(
      order.client.listOrders({ userId: 11n, pageSize: 0, pageToken }),
      (error: { reason: string; violations: { field: string }[] }) => {
        assert.equal(error.reason, 'INVALID_REQUEST');
        assert.deepEqual(
          error.violations.map(({ field }) => field),
          ['page_token'],
        );
        return true;
      },
    );
  }
});

test('an order is found by its buyer and by internal callers, and by nobody else', async () => {
  const [orderId = 0n] = await createMany(31n, 1);
  for (const userId of [31n, 0n]) {
    const { order: read } = await order.client.getOrder({ orderId, userId });
    assert.equal(read?.orderId, orderId);
  }
  const strangers = { reason: 'NOT_FOUND' };
  await assert.rejects(order.client.getOrder({ orderId, userId: 32n }), strangers);
  await assert.rejects(order.client.getOrderHistory({ orderId, userId: 32n }), strangers);
  await assert.rejects(order.client.cancelOrder({ orderId, userId: 32n }), strangers);
  await assert.rejects(order.client.getOrder({ orderId: orderId + 1n, userId: 31n }), strangers);
});

test('a fence is hidden from every read', async () => {
  const [fence = 0n, orderId = 0n] = await createMany(33n, 2);
  await fenceOf(33n, fence);
  const hidden = { reason: 'NOT_FOUND' };
  for (const userId of [33n, 0n]) {
    await assert.rejects(order.client.getOrder({ orderId: fence, userId }), hidden);
    await assert.rejects(order.client.getOrderHistory({ orderId: fence, userId }), hidden);
    await assert.rejects(order.client.cancelOrder({ orderId: fence, userId }), hidden);
  }
  const { orders } = await order.client.listOrders({ userId: 33n, pageSize: 0, pageToken: '' });
  assert.deepEqual(
    orders.map((shown) => shown.orderId),
    [orderId],
  );
});

test('the history begins with the creation and has every transition after it', async () => {
  const [orderId = 0n] = await createMany(34n, 1);
  const { order: cancelled } = await order.client.cancelOrder({ orderId, userId: 34n });
  const { transitions } = await order.client.getOrderHistory({ orderId, userId: 34n });
  assert.deepEqual(transitions, [
    {
      version: 1,
      fromStatus: OrderStatus.ORDER_STATUS_UNSPECIFIED,
      toStatus: OrderStatus.ORDER_STATUS_PENDING,
      closeReason: CloseReason.CLOSE_REASON_UNSPECIFIED,
      transitionTime: cancelled?.createTime,
    },
    {
      version: 2,
      fromStatus: OrderStatus.ORDER_STATUS_PENDING,
      toStatus: OrderStatus.ORDER_STATUS_CANCELLED,
      closeReason: CloseReason.CLOSE_REASON_USER,
      transitionTime: cancelled?.updateTime,
    },
  ]);
});
