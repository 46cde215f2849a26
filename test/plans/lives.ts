import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Filled } from '../operator/fill.ts';
import { sluice } from '../operator/run-sluice.ts';
import { eventually } from '../support/eventually.ts';
import { startLifeWorkload } from '../support/life-workload.ts';
import type { System } from '../support/system.ts';
import { answered } from '../support/workload.ts';
import { notOurs } from './slow-log.ts';

/** SKUs of their own, beside those that the old rows are of. */
const skuIds = [101n, 102n, 103n];
const userId = 5n;
const batch = 240;
const bounds = { withinMs: 120_000, everyMs: 250 };

/** Orders of this test live so long. */
export const expirySeconds = 3;
export const settleAgeMs = 1_000;

/**
 * Everything that the services and the command line do with rows: orders are bought, retried, paid, cancelled, refunded and expire,
 * one by one and many at once; holds without an order are swept; old holds are looked at again; operators look, count and prune.
 */
export async function liveThrough(system: System, filled: Filled): Promise<void> {
  for (const skuId of skuIds)
    await system.createSku({ skuId, supplied: 5_000n, limitPerUser: 1_000 });
  const options = { system, seed: 11, label: 'plans', skuIds, users: 50, concurrency: 6 };
  const workload = startLifeWorkload({ ...options, restMs: 10, ordersMax: 40 });
  try {
    await buyAndLook(system);
    await lookAtOldOrders(system, filled);
    await manyAtOnce(system);
    await lookAtStock(system);
    await leaveAHold(system);
    await eventually(() => workload.history.length >= 40, 'the lives have begun', bounds);
  } finally {
    await workload.stop();
  }
  await untilOverIsClosed(system);
  await operate(system, filled);
}

async function buy(system: System, requestId: string, quantity = 1): Promise<bigint> {
  const request = { userId, requestId, lines: skuIds.map((skuId) => ({ skuId, quantity })) };
  const { order } = await answered(() => system.order().createOrder(request));
  return order?.orderId as bigint;
}

async function buyAndLook(system: System): Promise<void> {
  const orderId = await buy(system, 'one');
  assert.equal(await buy(system, 'one'), orderId, 'a retry finds its order');
  const order = system.order();
  const watch = new AbortController();
  const watching = (async (): Promise<void> => {
    for await (const { order: seen } of order.watchOrder(
      { orderId, userId },
      { signal: watch.signal },
    )) {
      if (seen?.status === 5) return;
    }
  })().catch(() => undefined);
  await answered(() => order.getOrder({ orderId, userId }));
  await answered(() => order.listOrders({ userId, pageSize: 20, pageToken: '' }));
  await answered(() => order.cancelOrder({ orderId, userId }));
  await answered(() => order.getOrderHistory({ orderId, userId }));
  await sleep(500);
  watch.abort();
  await watching;
}

async function lookAtOldOrders(system: System, filled: Filled): Promise<void> {
  const orderId = BigInt(await filled.orderId(2));
  const [rows] = await filled.pool.query(
    `SELECT user_id FROM ${system.prefix}_fill.orders WHERE n = 2`,
  );
  const [{ user_id: owner }] = rows as [{ user_id: string }];
  const old = { orderId, userId: BigInt(owner) };
  const order = system.order();
  await answered(() => order.getOrder(old));
  await answered(() => order.getOrderHistory(old));
  const page = await answered(() =>
    order.listOrders({ userId: old.userId, pageSize: 2, pageToken: '' }),
  );
  const { nextPageToken } = page;
  await answered(() =>
    order.listOrders({ userId: old.userId, pageSize: 100, pageToken: nextPageToken }),
  );
  await answered(() => system.payment().listPayments({ orderId, userId: old.userId }));
  // The request of an old order, whose record Redis does not have.
  const request = { userId: old.userId, requestId: 'r2', lines: [{ skuId: 101n, quantity: 1 }] };
  await order.createOrder(request).catch(() => undefined);
}

async function manyAtOnce(system: System): Promise<void> {
  const requests = Array.from({ length: batch }, (_, index) => ({
    userId: 1_000n + BigInt(index),
    requestId: `many ${index}`,
    lines: skuIds.map((skuId) => ({ skuId, quantity: 1 })),
  }));
  const { results } = await answered(() => system.order().batchCreateOrders({ requests }));
  const orders = results.flatMap(({ outcome }) =>
    outcome?.$case === 'created' ? [outcome.value.order] : [],
  );
  assert.ok(orders.length > batch / 2, `${orders.length} orders`);
  // A third is cancelled at once, the others expire together.
  await Promise.all(
    orders.slice(0, batch / 3).map((order) => {
      const { orderId = 0n, userId: owner = 0n } = order ?? {};
      return answered(() => system.order().cancelOrder({ orderId, userId: owner }));
    }),
  );
}

async function lookAtStock(system: System): Promise<void> {
  const [skuId = 0n] = skuIds;
  await answered(() => system.stock.getSku({ skuId }));
  await answered(() => system.stock.listSkus({ pageSize: 50, pageToken: '' }));
  await answered(() => system.stock.batchGetStock({ skuIds: [...skuIds, 1n, 2n] }));
  await answered(() => system.admin.updateSku({ skuId, limitPerUser: 900 }));
  await answered(() => system.admin.rebuildStock({ skuId }));
  await answered(() => system.admin.getStockLayers({ skuId }));
}

/** A hold whose order never comes: the sweep asks for it, order fences it, and its units come back. */
async function leaveAHold(system: System): Promise<void> {
  const orderId = (BigInt(Date.now() - Date.UTC(2025, 0, 1)) << 22n) | 63n;
  const reservation: StockReservation = {
    ...{ orderId, userId, requestId: 'left', fingerprint: Buffer.alloc(16, 1) },
    lines: [{ skuId: skuIds[0] as bigint, quantity: 1 }],
  };
  await answered(() => system.stock.reserveStock({ reservations: [reservation] }));
  const isBack = async (): Promise<boolean> => {
    const sql = `SELECT state FROM stock_holds WHERE order_id = ${orderId}`;
    const [rows] = await system.stockPool.query(sql);
    return (rows as { state: number }[])[0]?.state === 3;
  };
  await eventually(isBack, 'the hold without an order is given back', bounds);
}

async function untilOverIsClosed(system: System): Promise<void> {
  const open = async (): Promise<number> => {
    const [rows] = await (system.orderPools[0] as (typeof system.orderPools)[number]).query(
      `${notOurs} SELECT COUNT(*) AS open FROM orders_00 WHERE status = 1 AND expire_time < UTC_TIMESTAMP(3)`,
    );
    return Number((rows as { open: string }[])[0]?.open);
  };
  await eventually(async () => (await open()) === 0, 'what is overdue is closed', bounds);
}

async function operate(system: System, filled: Filled): Promise<void> {
  const run = async (...args: string[]): Promise<void> => {
    const { code, stdout, stderr } = await sluice(args, system.env);
    assert.equal(code, 0, `${args.join(' ')}: ${stderr}${stdout.slice(-2_000)}`);
  };
  await run('explain', await filled.orderId(18));
  await run('prune', '--dry-run');
  await run('prune');
  await run('audit', '--grace', '5');
}
