import type { OrderPicture, OrderRow } from './order-picture.ts';
import type { OrderLook, PromiseCheck } from './promise.ts';
import { hold, isLive, order as state, statusName } from './states.ts';

/** P3: what was answered is stored whole: the order, its lines, its history, at the prices that the ledger gave. */
export const createdIsStored: PromiseCheck = {
  id: 'P3',
  title: 'Created is stored, whole',
  counts(picture, count) {
    count('orders', picture.orders.length);
    count('order lines', picture.items.length);
    count('transitions', picture.history.length);
  },
  lookAtOrder(look) {
    const { picture, report } = look;
    const { order, orderId } = picture;
    if (order?.archived) return;
    if (order === undefined || order.status === state.aborted) {
      const what = order === undefined ? 'no order' : 'a fence (ABORTED)';
      if (picture.items.length > 0) {
        const sentence = `order ${orderId} has ${picture.items.length} lines, and there is ${what}`;
        report({ kind: 'lines-without-order', sentence, orderId });
      }
      if (order === undefined && picture.history.length > 0) {
        const sentence = `order ${orderId} has a history, and there is ${what}`;
        report({ kind: 'history-without-order', sentence, orderId });
      }
      return;
    }
    if (isLive(order.status) || order.status === state.cancelled) lookAtTotal(look, order);
    if (isLive(order.status)) lookAtHolds(look);
    lookAtHistory(look, order);
  },
};

function lookAtTotal({ picture, report }: OrderLook, order: OrderRow): void {
  const { orderId, items } = picture;
  if (items.length === 0) {
    report({ kind: 'no-lines', sentence: `order ${orderId} has no lines`, orderId });
    return;
  }
  let sum = 0n;
  for (const item of items) sum += BigInt(item.quantity) * BigInt(item.unitPriceMinor);
  if (sum === BigInt(order.totalMinor)) return;
  const sentence = `order ${orderId} has the total ${order.totalMinor}, its lines add up to ${sum}`;
  report({ kind: 'total-differs', sentence, orderId });
}

/** Each hold that the order owns is one of its lines, of its user, at its price. */
function lookAtHolds({ picture, report }: OrderLook): void {
  const { order, orderId, items, holds } = picture;
  for (const row of holds) {
    if (row.state !== hold.held && row.state !== hold.sold) continue;
    const { skuId } = row;
    const flaw = (kind: string, sentence: string): void =>
      report({ kind, sentence, orderId, skuId });
    const line = items.find((item) => item.skuId === skuId);
    if (line === undefined) {
      flaw(
        'hold-without-line',
        `order ${orderId} owns a hold of SKU ${skuId} and has no such line`,
      );
    } else if (line.unitPriceMinor !== row.unitPriceMinor || order?.currency !== row.currency) {
      flaw(
        'price-differs',
        `order ${orderId} pays ${line.unitPriceMinor} ${order?.currency} for SKU ${skuId}, the ledger said ${row.unitPriceMinor} ${row.currency}`,
      );
    }
    if (row.userId !== order?.userId) {
      flaw(
        'user-differs',
        `order ${orderId} is not of the user that its hold of SKU ${skuId} is of`,
      );
    }
  }
}

const legal = new Set([
  `${state.pending}>${state.paid}`,
  `${state.pending}>${state.cancelled}`,
  `${state.paid}>${state.refunding}`,
  `${state.refunding}>${state.refunded}`,
  // Refunds in part raise the version and leave the state.
  `${state.paid}>${state.paid}`,
  `${state.refunding}>${state.refunding}`,
  `${state.queued}>${state.pending}`,
  `${state.queued}>${state.rejected}`,
]);

function lookAtHistory({ picture, report }: OrderLook, order: OrderRow): void {
  const { orderId } = picture;
  const wrong = wrongInHistory(picture, order);
  if (wrong === undefined) return;
  report({ kind: 'history-differs', sentence: `order ${orderId}: ${wrong}`, orderId });
}

/** The history must lead from the creation to the present state, one legal step per version. */
function wrongInHistory({ history }: OrderPicture, order: OrderRow): string | undefined {
  let version = 1;
  let status: number | undefined;
  for (const step of history) {
    version += 1;
    const { from, to } = step;
    if (step.version !== version) return `its history lacks version ${version}`;
    if (status !== undefined && from !== status) {
      return `version ${version} leaves ${statusName(from)}, which it was not in`;
    }
    if (!legal.has(`${from}>${to}`)) return `it went from ${statusName(from)} to ${statusName(to)}`;
    status = to;
  }
  const now = statusName(order.status);
  if (version !== order.version) {
    return `it is at version ${order.version}, its history at ${version}`;
  }
  if (status !== undefined && status !== order.status) {
    return `it is ${now}, its history says ${statusName(status)}`;
  }
  const isNew = order.status === state.pending || order.status === state.queued;
  return status === undefined && !isNew ? `it is ${now} and has no history` : undefined;
}
