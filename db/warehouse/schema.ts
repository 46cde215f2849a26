import {
  bigint,
  char,
  datetime,
  int,
  mysqlTable,
  primaryKey,
  varchar,
} from 'drizzle-orm/mysql-core';

/**
 * The facts as drizzle sees them; `migrations/` has the same with the reasons, and the checks compare both. Times are UTC. No service
 * loads it: drizzle costs a process 130 MB.
 */
export const orderLineFacts = mysqlTable(
  'order_line_facts',
  {
    orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
    skuId: bigint('sku_id', { mode: 'bigint' }).notNull(),
    version: int('version').notNull(),
    userId: bigint('user_id', { mode: 'bigint' }).notNull(),
    status: varchar('status', { length: 16 }).notNull(),
    closeReason: varchar('close_reason', { length: 16 }).notNull(),
    quantity: int('quantity').notNull(),
    unitPriceMinor: bigint('unit_price_minor', { mode: 'bigint' }).notNull(),
    orderTotalMinor: bigint('order_total_minor', { mode: 'bigint' }).notNull(),
    orderRefundedMinor: bigint('order_refunded_minor', { mode: 'bigint' }).notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    paymentId: bigint('payment_id', { mode: 'bigint' }).notNull(),
    orderCreateTime: datetime('order_create_time', { fsp: 3 }).notNull(),
    eventTime: datetime('event_time', { fsp: 3 }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.orderId, table.skuId] })],
);
