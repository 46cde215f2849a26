import type { OrderRow } from './order-picture.ts';
import type { OrderLook, PromiseCheck } from './promise.ts';
import { hold, holdName, isDead, isLive, refund, order as state, statusName } from './states.ts';

/** P5: stock is owned exactly as long as its order lives, and an unpaid order does not live for ever. */
export const heldStockComesBack: PromiseCheck = {
  id: 'P5',
  title: 'Held stock comes back, once',
  counts(picture, count) {
    count('orders', picture.orders.length);
    count('holds', picture.holds.length);
  },
  lookAtOrder(look) {
    const { order, orderId } = look.picture;
    if (order === undefined) return;
    if (isDead(order.status)) lookAtDead(look, order);
    else if (isLive(order.status)) lookAtLive(look, order);
    if (order.status === state.pending && order.expireTime <= look.clock.settledBefore) {
      const sentence = `order ${orderId} is PENDING and should have expired at ${order.expireTime} UTC`;
      look.report({ kind: 'overdue', sentence, orderId });
    }
  },
};

function lookAtDead({ picture, report }: OrderLook, { status }: OrderRow): void {
  const { orderId, holds } = picture;
  for (const row of holds) {
    if (row.state === hold.released || row.state === hold.fenced) continue;
    const kinds: Record<number, string> = {
      [hold.held]: 'held-by-dead-order',
      [hold.sold]: 'sold-to-dead-order',
    };
    report({
      kind: kinds[row.state] ?? 'restocked-by-dead-order',
      sentence: `order ${orderId} is ${statusName(status)}, and ${row.units} of SKU ${row.skuId} are ${holdName(row.state)} for it`,
      orderId,
      skuId: row.skuId,
    });
  }
}

function lookAtLive({ picture, report }: OrderLook, { status }: OrderRow): void {
  const { orderId, holds, refunds } = picture;
  const mayBeRestocked =
    status === state.refunded &&
    refunds.some((row) => row.restock && row.status === refund.succeeded);
  for (const row of holds) {
    const flaw = (kind: string): void =>
      report({
        kind,
        sentence: `order ${orderId} is ${statusName(status)}, and its hold of SKU ${row.skuId} is ${holdName(row.state)}`,
        orderId,
        skuId: row.skuId,
      });
    if (row.state === hold.released || row.state === hold.fenced) flaw('released-while-alive');
    else if (row.state === hold.restocked && !mayBeRestocked) flaw('restocked-without-word');
    else if (row.state === hold.sold && status === state.pending) flaw('sold-before-paid');
  }
}
