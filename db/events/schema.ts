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
  varbinary,
  varchar,
} from 'drizzle-orm/mysql-core';

const blob = customType<{ data: Buffer }>({ dataType: () => 'blob' });

/**
 * What the events process keeps, as drizzle sees it; `migrations/` has the same with the reasons, and the checks compare both. Times are UTC. No service
 * loads it: drizzle costs a process 130 MB.
 */
export const countedOrders = mysqlTable(
  'counted_orders',
  {
    orderId: bigint('order_id', { mode: 'bigint' }).notNull().primaryKey(),
    version: int('version').notNull(),
    userId: bigint('user_id', { mode: 'bigint' }).notNull(),
    status: tinyint('status').notNull(),
    totalMinor: bigint('total_minor', { mode: 'bigint' }).notNull(),
    refundedMinor: bigint('refunded_minor', { mode: 'bigint' }).notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    updateTime: datetime('update_time', { fsp: 3 }).notNull(),
  },
  (table) => [index('by_time').on(table.updateTime)],
);

export const userStatistics = mysqlTable(
  'user_statistics',
  {
    userId: bigint('user_id', { mode: 'bigint' }).notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    orders: bigint('orders', { mode: 'bigint' }).notNull(),
    paid: bigint('paid', { mode: 'bigint' }).notNull(),
    cancelled: bigint('cancelled', { mode: 'bigint' }).notNull(),
    refunded: bigint('refunded', { mode: 'bigint' }).notNull(),
    paidMinor: bigint('paid_minor', { mode: 'bigint' }).notNull(),
    refundedMinor: bigint('refunded_minor', { mode: 'bigint' }).notNull(),
    updateTime: datetime('update_time', { fsp: 3 }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.userId, table.currency] })],
);

export const confirmationMails = mysqlTable(
  'confirmation_mails',
  {
    orderId: bigint('order_id', { mode: 'bigint' }).notNull().primaryKey(),
    userId: bigint('user_id', { mode: 'bigint' }).notNull(),
    payload: blob('payload').notNull(),
    attempts: int('attempts').notNull(),
    failure: varchar('failure', { length: 200 }).notNull(),
    nextTime: datetime('next_time', { fsp: 3 }),
    owner: varbinary('owner', { length: 64 }),
    sentTime: datetime('sent_time', { fsp: 3 }),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
  },
  (table) => [index('due').on(table.nextTime), index('by_time').on(table.createTime)],
);

export const catchUpCursors = mysqlTable(
  'catch_up_cursors',
  {
    consumer: varchar('consumer', { length: 32 }).notNull(),
    walk: tinyint('walk').notNull(),
    databaseIndex: int('database_index').notNull(),
    orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
    owner: varbinary('owner', { length: 64 }),
    ownedUntil: datetime('owned_until', { fsp: 3 }),
    dueTime: datetime('due_time', { fsp: 3 }).notNull(),
    passTime: datetime('pass_time', { fsp: 3 }),
  },
  (table) => [primaryKey({ columns: [table.consumer, table.walk, table.databaseIndex] })],
);
