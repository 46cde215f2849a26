import {
  bigint,
  char,
  customType,
  datetime,
  index,
  int,
  mysqlTable,
  primaryKey,
  tinyint,
  uniqueIndex,
  varbinary,
  varchar,
} from 'drizzle-orm/mysql-core';

const mediumblob = customType<{ data: Buffer }>({ dataType: () => 'mediumblob' });

/**
 * Payments as drizzle sees them; `migrations/` has the same with the reasons, and the checks compare both. Times are UTC. No service
 * loads it: drizzle costs a process 130 MB.
 */
export const payments = mysqlTable(
  'payments',
  {
    paymentId: bigint('payment_id', { mode: 'bigint' }).notNull().primaryKey(),
    orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
    userId: bigint('user_id', { mode: 'bigint' }).notNull(),
    requestId: varbinary('request_id', { length: 128 }).notNull(),
    provider: varchar('provider', { length: 32 }).notNull(),
    providerReference: varbinary('provider_reference', { length: 255 }),
    paymentUrl: varchar('payment_url', { length: 2048 }).notNull(),
    status: tinyint('status').notNull(),
    settlement: tinyint('settlement').notNull(),
    amountMinor: bigint('amount_minor', { mode: 'bigint' }).notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    capturedMinor: bigint('captured_minor', { mode: 'bigint' }),
    capturedCurrency: char('captured_currency', { length: 3 }),
    failure: varchar('failure', { length: 200 }).notNull(),
    sessionOver: tinyint('session_over').notNull(),
    expireTime: datetime('expire_time', { fsp: 3 }).notNull(),
    attempts: int('attempts').notNull(),
    nextTime: datetime('next_time', { fsp: 3 }),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
    updateTime: datetime('update_time', { fsp: 3 }).notNull(),
  },
  (table) => [
    uniqueIndex('order_request').on(table.orderId, table.requestId),
    uniqueIndex('session').on(table.provider, table.providerReference),
    index('due').on(table.settlement, table.nextTime),
  ],
);

export const refunds = mysqlTable(
  'refunds',
  {
    refundId: bigint('refund_id', { mode: 'bigint' }).notNull().primaryKey(),
    paymentId: bigint('payment_id', { mode: 'bigint' }).notNull(),
    requestId: varbinary('request_id', { length: 132 }).notNull(),
    amountMinor: bigint('amount_minor', { mode: 'bigint' }).notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    whole: tinyint('whole').notNull(),
    status: tinyint('status').notNull(),
    reason: varchar('reason', { length: 200 }).notNull(),
    restock: tinyint('restock').notNull(),
    providerReference: varbinary('provider_reference', { length: 255 }),
    failure: varchar('failure', { length: 200 }).notNull(),
    told: tinyint('told').notNull(),
    attempts: int('attempts').notNull(),
    nextTime: datetime('next_time', { fsp: 3 }),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
    updateTime: datetime('update_time', { fsp: 3 }).notNull(),
  },
  (table) => [
    uniqueIndex('payment_request').on(table.paymentId, table.requestId),
    index('due').on(table.nextTime),
  ],
);

export const webhookInbox = mysqlTable(
  'webhook_inbox',
  {
    provider: varchar('provider', { length: 32 }).notNull(),
    eventId: varbinary('event_id', { length: 255 }).notNull(),
    eventType: varchar('event_type', { length: 100 }).notNull(),
    paymentId: bigint('payment_id', { mode: 'bigint' }),
    effect: varchar('effect', { length: 32 }).notNull(),
    body: mediumblob('body').notNull(),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.provider, table.eventId] }),
    index('by_payment').on(table.paymentId),
    index('by_time').on(table.createTime),
  ],
);

export const closedOrders = mysqlTable(
  'closed_orders',
  {
    orderId: bigint('order_id', { mode: 'bigint' }).notNull().primaryKey(),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
  },
  (table) => [index('by_time').on(table.createTime)],
);

export const webhooksAside = mysqlTable(
  'webhooks_aside',
  {
    provider: varchar('provider', { length: 32 }).notNull(),
    eventId: varbinary('event_id', { length: 255 }).notNull(),
    body: mediumblob('body').notNull(),
    failure: varchar('failure', { length: 200 }).notNull(),
    attempts: int('attempts').notNull(),
    nextTime: datetime('next_time', { fsp: 3 }).notNull(),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.provider, table.eventId] }),
    index('due').on(table.nextTime),
  ],
);
