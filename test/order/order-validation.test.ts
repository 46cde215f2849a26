import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { CreateOrderRequest } from '../../gen/sluice/order/v1/order_service.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

let bench: OrderBench;
let order: OrderProcess;
let asked = 0;

before(async () => {
  bench = await startOrderBench('valid', { databases: 1, tables: 1 });
  order = await bench.start();
  bench.stock.script = () => {
    asked += 1;
    return undefined;
  };
});
after(() => bench.stop());

const line = { skuId: 1n, quantity: 1 };
const max = 2n ** 63n - 1n;
const request = (change: Partial<CreateOrderRequest>): CreateOrderRequest => ({
  ...orderRequest(1n, 'bad'),
  ...change,
});
const quantity = (units: number) => request({ lines: [{ skuId: 1n, quantity: units }] });

const badRequests: [what: string, CreateOrderRequest, fields: string[]][] = [
  ['user 0', request({ userId: 0n }), ['user_id']],
  ['a negative user', request({ userId: -1n }), ['user_id']],
  ['a user of 64 bits, which arrives negative', request({ userId: -max }), ['user_id']],
  ['no request id', request({ requestId: '' }), ['request_id']],
  ['a request id of 129 characters', request({ requestId: 'x'.repeat(129) }), ['request_id']],
  ['a request id of 300 characters', request({ requestId: 'x'.repeat(300) }), ['request_id']],
  ['a request id with an umlaut', request({ requestId: 'bestellung-ü' }), ['request_id']],
  ['a request id with Chinese', request({ requestId: '订单' }), ['request_id']],
  ['a request id with a tab', request({ requestId: 'a\tb' }), ['request_id']],
  ['a request id with a line break', request({ requestId: 'a\n' }), ['request_id']],
  ['a request id with a zero byte', request({ requestId: 'a\0' }), ['request_id']],
  ['no lines', request({ lines: [] }), ['lines']],
  ['21 lines', request({ lines: new Array(21).fill(line) }), ['lines']],
  ['1,000 lines', request({ lines: new Array(1_000).fill(line) }), ['lines']],
  ['SKU 0', request({ lines: [{ skuId: 0n, quantity: 1 }] }), ['lines[0].sku_id']],
  ['a negative SKU', request({ lines: [line, { skuId: -5n, quantity: 1 }] }), ['lines[1].sku_id']],
  ['quantity 0', quantity(0), ['lines[0].quantity']],
  ['a negative quantity', quantity(-1), ['lines[0].quantity']],
  ['quantity 1,001', quantity(1_001), ['lines[0].quantity']],
  ['the greatest 32-bit quantity', quantity(2 ** 31 - 1), ['lines[0].quantity']],
  ['the smallest 32-bit quantity', quantity(-(2 ** 31)), ['lines[0].quantity']],
  [
    'everything wrong at once',
    { userId: 0n, requestId: '', lines: [{ skuId: 0n, quantity: 0 }] },
    ['user_id', 'request_id', 'lines[0].sku_id', 'lines[0].quantity'],
  ],
];

for (const [what, bad, fields] of badRequests) {
  test(`${what} is refused by field, alone and in a batch, and stock is not asked`, async () => {
    const before = asked;
    await assert.rejects(order.client.createOrder(bad), (error) => violates(error, fields));
    const { results } = await order.client.batchCreateOrders({ requests: [bad] });
    const outcome = results[0]?.outcome;
    assert.equal(outcome?.$case, 'refusal');
    assert.deepEqual(
      outcome.value.violations.map(({ field }) => field),
      fields,
    );
    for (const { description } of outcome.value.violations)
      assert.match(description, /^Send .+\.$/);
    assert.equal(asked, before);
  });
}

const goodRequests: [what: string, CreateOrderRequest][] = [
  [
    'the greatest user and SKU',
    { ...orderRequest(max, 'max', [{ skuId: max / 100n, quantity: 1 }]) },
  ],
  ['a request id of 128 characters', orderRequest(2n, 'y'.repeat(128))],
  ['a request id of quotes and backslashes', orderRequest(2n, `'"\\'); DROP TABLE orders_00 -- ~`)],
  ['a quantity of 1,000', orderRequest(2n, 'thousand', [{ skuId: 1n, quantity: 1_000 }])],
  [
    '20 lines of one SKU, merged to 20,000 units',
    orderRequest(2n, 'merged', new Array(20).fill({ skuId: 1n, quantity: 1_000 })),
  ],
  [
    '20 lines of 20 SKUs',
    orderRequest(
      2n,
      'twenty',
      Array.from({ length: 20 }, (_, index) => ({ skuId: BigInt(20 - index), quantity: 1 })),
    ),
  ],
];

for (const [what, good] of goodRequests) {
  test(`${what} is accepted, stored and found again`, async () => {
    const { order: made } = await order.client.createOrder(good);
    const read = await order.client.getOrder({ orderId: made?.orderId ?? 0n, userId: good.userId });
    assert.deepEqual(read.order, made);
    assert.equal(made?.requestId, good.requestId);
    const units = good.lines.reduce((sum, { quantity: own }) => sum + own, 0);
    assert.equal(
      made?.items.reduce((sum, { quantity: own }) => sum + own, 0),
      units,
    );
    const again = await order.client.createOrder(good);
    assert.deepEqual(again, { order: made, replayed: true });
  });
}

test('request ids that differ in case or trailing spaces are different requests', async () => {
  const ids = new Set<bigint | undefined>();
  for (const requestId of ['case', 'CASE', 'case ', ' case']) {
    ids.add((await order.client.createOrder(orderRequest(3n, requestId))).order?.orderId);
  }
  assert.equal(ids.size, 4);
});

const noOrders: CreateOrderRequest[] = [];
const refund = { orderId: 1n, paymentId: 1n, refundedTotal: undefined, done: true, restock: false };

const badCalls: [what: string, call: () => Promise<unknown>, field: string][] = [
  ['an empty batch', () => order.client.batchCreateOrders({ requests: noOrders }), 'requests'],
  [
    'a batch of 501',
    () => order.client.batchCreateOrders({ requests: new Array(501).fill(orderRequest(1n, 'x')) }),
    'requests',
  ],
  ['reading order 0', () => order.client.getOrder({ orderId: 0n, userId: 1n }), 'order_id'],
  ['reading order -1', () => order.client.getOrder({ orderId: -1n, userId: 1n }), 'order_id'],
  ['reading for user -1', () => order.client.getOrder({ orderId: 1n, userId: -1n }), 'user_id'],
  [
    'the history of order 0',
    () => order.client.getOrderHistory({ orderId: 0n, userId: 1n }),
    'order_id',
  ],
  ['cancelling order 0', () => order.client.cancelOrder({ orderId: 0n, userId: 1n }), 'order_id'],
  [
    'cancelling for user -1',
    () => order.client.cancelOrder({ orderId: 1n, userId: -1n }),
    'user_id',
  ],
  [
    'listing for user 0',
    () => order.client.listOrders({ userId: 0n, pageSize: 1, pageToken: '' }),
    'user_id',
  ],
  [
    'a page of 101',
    () => order.client.listOrders({ userId: 1n, pageSize: 101, pageToken: '' }),
    'page_size',
  ],
  [
    'a page of -1',
    () => order.client.listOrders({ userId: 1n, pageSize: -1, pageToken: '' }),
    'page_size',
  ],
  [
    'beginning a payment for nobody',
    () => order.client.beginPayment({ orderId: 1n, userId: 0n }),
    'user_id',
  ],
  [
    'beginning a payment of order 0',
    () => order.client.beginPayment({ orderId: 0n, userId: 1n }),
    'order_id',
  ],
  [
    'recording payment 0',
    () => order.client.recordPayment({ orderId: 1n, paymentId: 0n, amount: undefined }),
    'payment_id',
  ],
  [
    'recording a payment of order -1',
    () => order.client.recordPayment({ orderId: -1n, paymentId: 1n, amount: undefined }),
    'order_id',
  ],
  [
    'recording a refund of payment 0',
    () => order.client.recordRefund({ ...refund, paymentId: 0n }),
    'payment_id',
  ],
  [
    'recording a refund of order 0',
    () => order.client.recordRefund({ ...refund, orderId: 0n }),
    'order_id',
  ],
  ['resolving nothing', () => order.client.resolveOrders({ orderIds: [] }), 'order_ids'],
  [
    'resolving 5,001 ids',
    () => order.client.resolveOrders({ orderIds: new Array(5_001).fill(1n) }),
    'order_ids',
  ],
  ['resolving id 0', () => order.client.resolveOrders({ orderIds: [1n, 0n] }), 'order_ids[1]'],
];

for (const [what, call, field] of badCalls) {
  test(`${what} is refused, naming ${field}`, async () => {
    await assert.rejects(call(), (error) => violates(error, [field]));
  });
}

function violates(error: unknown, fields: readonly string[]): true {
  const { reason, violations } = error as { reason: string; violations: { field: string }[] };
  assert.equal(reason, 'INVALID_REQUEST');
  assert.deepEqual(
    violations.map(({ field }) => field),
    fields,
  );
  return true;
}
