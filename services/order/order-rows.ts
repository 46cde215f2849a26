import type { RowDataPacket } from 'mysql2/promise';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OutboxBatch, type OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import type {
  CloseReason,
  Order,
  OrderItem,
  OrderStatus,
} from '../../gen/sluice/order/v1/order.ts';

// How orders stand in rows and statements. The batch paths write their statements as text: one
// multi-row statement is several times cheaper than a prepared one per row, and a prepared one per
// batch size would fill the statement caches. Numbers and hexadecimal literals need no escaping.

/** An order as read, with what only the order service needs to know. */
export interface StoredOrder {
  readonly order: Order;
  /** Hexadecimal; empty in a fence. */
  readonly fingerprintHex: string;
  /** Whether a session with the payment provider may be open. */
  readonly paymentBegun: boolean;
}

export const orderColumns =
  'order_id, user_id, request_id, fingerprint, status, close_reason, version, total_minor, currency, ' +
  'payment_id, payment_begun, refunded_minor, create_time, expire_time, update_time';

/** A DATETIME(3) literal of a moment, in UTC as all columns are. */
export function timeLiteral(time: Date): string {
  return `'${time.toISOString().replace('T', ' ').slice(0, -1)}'`;
}

/** A binary literal of printable ASCII text; hexadecimal, so that nothing in it needs escaping. */
export function asciiLiteral(text: string): string {
  return `X'${Buffer.from(text, 'latin1').toString('hex')}'`;
}

/** Puts an order together from its row and the rows of its items (ascending by SKU). */
export function toStoredOrder(row: RowDataPacket, itemRows: readonly RowDataPacket[]): StoredOrder {
  const currencyCode = row.currency as string;
  const refundedMinor = BigInt(row.refunded_minor);
  return {
    order: {
      orderId: BigInt(row.order_id),
      userId: BigInt(row.user_id),
      status: row.status as OrderStatus,
      items: itemRows.map(
        (item): OrderItem => ({
          skuId: BigInt(item.sku_id),
          quantity: item.quantity as number,
          unitPrice: { currencyCode, minorUnits: BigInt(item.unit_price_minor) },
        }),
      ),
      total: { currencyCode, minorUnits: BigInt(row.total_minor) },
      createTime: row.create_time as Date,
      expireTime: row.expire_time as Date,
      closeReason: row.close_reason as CloseReason,
      requestId: row.request_id === null ? '' : (row.request_id as Buffer).toString('latin1'),
      version: row.version as number,
      updateTime: row.update_time as Date,
      paymentId: BigInt(row.payment_id),
      refunded: refundedMinor > 0n ? { currencyCode, minorUnits: refundedMinor } : undefined,
    },
    fingerprintHex: row.fingerprint === null ? '' : (row.fingerprint as Buffer).toString('hex'),
    paymentBegun: row.payment_begun !== 0,
  };
}

/** The event that tells of the state an order has just reached. */
export function eventOf(order: Order): OutboxMessage {
  return eventWith(order, { restock: false });
}

/** The same, for a change that may put the units back on sale. */
export function eventWith(order: Order, { restock }: { restock: boolean }): OutboxMessage {
  const event = OrderEvent.encode(orderEventOf(order, { restock })).finish();
  return { key: order.orderId, value: Buffer.from(event.buffer, event.byteOffset, event.length) };
}

/** What an event tells of an order. */
export function orderEventOf(order: Order, { restock }: { restock: boolean }): OrderEvent {
  return {
    orderId: order.orderId,
    version: order.version,
    userId: order.userId,
    status: order.status,
    closeReason: order.closeReason,
    items: order.items,
    total: order.total,
    eventTime: order.updateTime,
    paymentId: order.paymentId,
    restock,
    refunded: order.refunded,
    orderCreateTime: order.createTime,
  };
}

/** The statement that writes the events of a transaction as one outbox row. */
export function insertOutboxSql(messages: OutboxMessage[]): string {
  const { buffer, byteOffset, length } = OutboxBatch.encode({ messages }).finish();
  const payload = Buffer.from(buffer, byteOffset, length).toString('hex');
  return `INSERT INTO outbox (payload, create_time) VALUES (X'${payload}', UTC_TIMESTAMP(3))`;
}
