import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { eventually } from '../support/eventually.ts';
import { type OrderBench, type OrderProcess, orderRequest, startOrderBench } from './support.ts';

/** Fewer orders in a transaction than a database has tables, and one transaction in a look. */
const expiry = { intervalMs: 20, batchMax: 1, batchesMax: 1, voidsInFlightMax: 1 };

let bench: OrderBench;
let order: OrderProcess;

before(async () => {
  bench = await startOrderBench('expiry_one');
  order = await bench.start({ expiry });
});
after(() => bench.stop());

test('with less room in a batch than tables, the tables take turns and all orders expire', async () => {
  const requests = Array.from({ length: 40 }, (_, user) =>
    orderRequest(BigInt(user + 1), 'expire one at once'),
  );
  const { results } = await order.client.batchCreateOrders({ requests });
  const orderIds = results.map(({ outcome }) => {
    assert.ok(outcome?.$case === 'created');
    return outcome.value.order?.orderId ?? 0n;
  });
  const places = new Map(orderIds.map((orderId) => [orderId, order.shards.placeOfOrder(orderId)]));
  const tables = new Set([...places.values()].map((at) => `${at.database.index}/${at.table}`));
  assert(tables.size > 2, 'there are several tables in a database');
  for (const [orderId, { database, table }] of places) {
    const sql = `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) WHERE order_id = ${orderId}`;
    await bench.sql(database.index, sql);
  }
  const allClosed = async (): Promise<boolean> => {
    const rows = await bench.orderRows(`order_id IN (${orderIds})`);
    return rows.every(({ status }) => status === OrderStatus.ORDER_STATUS_CANCELLED);
  };
  await eventually(allClosed, 'all orders are expired', { withinMs: 30_000 });
});
