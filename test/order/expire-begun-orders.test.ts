import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ChangeOrder } from '../../services/order/change-order.ts';
import { startExpireBegunOrders } from '../../services/order/expire-begun-orders.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

const pace = { intervalMs: 50, batchMax: 10, batchesMax: 5, voidsInFlightMax: 4 };

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('begun');
  order = await bench.start();
});
after(() => bench.stop());

test('an order that is void is closed within five seconds, or leaves the lane to the changes of buyers', async () => {
  // The process's own expiry leaves the order alone.
  bench.payment.onClose = () => 'PAID';
  const { order: made } = await order.client.createOrder(orderRequest(1n, 'begun'));
  const { orderId = 0n } = made ?? {};
  await order.client.beginPayment({ orderId, userId: 1n });
  const leftMs: number[] = [];
  const changeOrder = (async ({ orderId: changed }, deadline) => {
    if (changed === orderId) leftMs.push(deadline.leftMs());
    throw new Refusal('NOT_FOUND');
  }) satisfies ChangeOrder;
  const { database, table } = order.shards.placeOfOrder(orderId);
  await bench.sql(
    database.index,
    `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) WHERE order_id = ${orderId}`,
  );
  const log = createLog('test', 'silent');
  const expired = createMetrics('test').counter('order_expired_total', 'Orders closed');
  const expiry = startExpireBegunOrders({
    ...{ shards: order.shards, pace, changeOrder, log, metrics: { expired } },
    payment: { closePayment: async () => 'CLOSED' },
  });
  try {
    await eventually(() => leftMs.length > 0, 'the order is to be closed');
  } finally {
    await expiry.stop();
  }
  for (const left of leftMs) assert.ok(left > 0 && left <= 5_000, `${left} ms`);
});
