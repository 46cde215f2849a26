import {
  CloseReason,
  closeReasonToJSON,
  type Order,
  OrderStatus,
  type OrderTransition,
  orderStatusToJSON,
} from '../../gen/sluice/order/v1/order.ts';
import { moneyJson, timestampField } from './stock-json.ts';

// The proto3 JSON mapping with default values written out and every int64 as a string. Written by
// hand because the generated toJSON leaves defaults out, and because it is on the path of every order.

/** One order as JSON text. */
export function orderJson(order: Order): string {
  let items = '';
  for (const item of order.items) {
    if (items !== '') items += ',';
    items += `{"skuId":"${item.skuId}","quantity":${item.quantity},"unitPrice":${moneyJson(item.unitPrice)}}`;
  }
  return (
    `{"orderId":"${order.orderId}","userId":"${order.userId}","status":"${statusName(order.status)}",` +
    `"items":[${items}],"total":${moneyJson(order.total)}${timestampField('createTime', order.createTime)}` +
    `${timestampField('expireTime', order.expireTime)},"closeReason":"${closeReasonName(order.closeReason)}",` +
    `"requestId":${JSON.stringify(order.requestId)},"version":${order.version}` +
    `${timestampField('updateTime', order.updateTime)},"paymentId":"${order.paymentId}",` +
    `"refunded":${moneyJson(order.refunded)}}`
  );
}

/** A page of orders as JSON text. */
export function orderPageJson(orders: readonly Order[], nextPageToken: string): string {
  const list = orders.map(orderJson).join(',');
  return `{"orders":[${list}],"nextPageToken":${JSON.stringify(nextPageToken)}}`;
}

/** The history of an order as JSON text. */
export function historyJson(transitions: readonly OrderTransition[]): string {
  const list = transitions.map(
    (transition) =>
      `{"version":${transition.version},"fromStatus":"${statusName(transition.fromStatus)}",` +
      `"toStatus":"${statusName(transition.toStatus)}",` +
      `"closeReason":"${closeReasonName(transition.closeReason)}"` +
      `${timestampField('transitionTime', transition.transitionTime)}}`,
  );
  return `{"transitions":[${list.join(',')}]}`;
}

// A plain array index instead of the generated switch with its strings: this runs for every order.
const statusNames: string[] = [];
for (const status of Object.values(OrderStatus)) {
  if (status >= 0) statusNames[status] = orderStatusToJSON(status);
}
const closeReasonNames: string[] = [];
for (const reason of Object.values(CloseReason)) {
  if (reason >= 0) closeReasonNames[reason] = closeReasonToJSON(reason);
}

function statusName(status: OrderStatus): string {
  return statusNames[status] ?? 'UNRECOGNIZED';
}

function closeReasonName(reason: CloseReason): string {
  return closeReasonNames[reason] ?? 'UNRECOGNIZED';
}
