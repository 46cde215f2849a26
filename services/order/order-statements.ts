import type { Order } from '../../gen/sluice/order/v1/order.ts';
import { asciiLiteral, timeLiteral } from './order-rows.ts';

/** An order to insert, with its fingerprint. */
export interface OrderRow {
  readonly order: Order;
  readonly fingerprintHex: string;
}

/** One statement for all orders of a table; they share their creation time. */
export function insertOrdersSql(table: string, rows: readonly OrderRow[]): string {
  const first = rows[0]?.order;
  const createTime = timeLiteral(first?.createTime as Date);
  const times = `${createTime},${timeLiteral(first?.expireTime as Date)},${createTime}`;
  let values = '';
  for (const { order, fingerprintHex } of rows) {
    const { orderId, userId, requestId, status, version, total } = order;
    values +=
      `${values === '' ? '' : ','}(${orderId},${userId},${asciiLiteral(requestId)},X'${fingerprintHex}',` +
      `${status},${version},${total?.minorUnits},'${currencyLiteral(total?.currencyCode)}',${times})`;
  }
  return (
    `INSERT INTO orders_${table} (order_id,user_id,request_id,fingerprint,status,version,total_minor,` +
    `currency,create_time,expire_time,update_time) VALUES ${values}`
  );
}

/** One statement for the items of all orders of a table. */
export function insertItemsSql(table: string, rows: readonly OrderRow[]): string {
  let values = '';
  for (const { order } of rows) {
    for (const { skuId, quantity, unitPrice } of order.items) {
      values += `${values === '' ? '' : ','}(${order.orderId},${skuId},${quantity},${unitPrice?.minorUnits})`;
    }
  }
  return `INSERT INTO order_items_${table} (order_id,sku_id,quantity,unit_price_minor) VALUES ${values}`;
}

/** The code comes from another service; what is not a code must not reach a statement. */
function currencyLiteral(code: string | undefined): string {
  if (code === undefined || !/^[A-Z]{3}$/.test(code))
    throw new Error('stock sent no currency code');
  return code;
}
