import {
  bigint,
  binary,
  char,
  customType,
  datetime,
  index,
  int,
  mediumtext,
  mysqlTable,
  primaryKey,
  tinyint,
  uniqueIndex,
  varbinary,
  varchar,
} from 'drizzle-orm/mysql-core';

// The schema of one order database as drizzle sees it; the checks compare it with the migrations.
// The numbered tables are described by their first (`…_00`); `ordersTable('07')` and its like name the others.

const mediumblob = customType<{ data: Buffer }>({ dataType: () => 'mediumblob' });
const time = (name: string) => datetime(name, { fsp: 3 });
const id = (name: string) => bigint(name, { mode: 'bigint' });

/** One row per order, and one per fence. `suffix` is the table's number, two digits. */
export const ordersTable = (suffix: string) =>
  mysqlTable(
    `orders_${suffix}`,
    {
      orderId: id('order_id').notNull().primaryKey(),
      userId: id('user_id').notNull(),
      requestId: varbinary('request_id', { length: 128 }),
      fingerprint: binary('fingerprint', { length: 16 }),
      status: tinyint('status').notNull(),
      closeReason: tinyint('close_reason').notNull().default(0),
      version: int('version').notNull().default(1),
      totalMinor: id('total_minor').notNull().default(0n),
      currency: char('currency', { length: 3 }).notNull().default(''),
      paymentId: id('payment_id').notNull().default(0n),
      createTime: time('create_time').notNull(),
      expireTime: time('expire_time').notNull(),
      updateTime: time('update_time').notNull(),
      paymentBegun: tinyint('payment_begun').notNull().default(0),
      refundedMinor: id('refunded_minor').notNull().default(0n),
    },
    (table) => [
      uniqueIndex('user_request').on(table.userId, table.requestId),
      index('user_orders').on(table.userId, table.orderId),
      index('due').on(table.status, table.paymentBegun, table.expireTime),
    ],
  );

/** What was ordered. */
export const orderItemsTable = (suffix: string) =>
  mysqlTable(
    `order_items_${suffix}`,
    {
      orderId: id('order_id').notNull(),
      skuId: id('sku_id').notNull(),
      quantity: int('quantity').notNull(),
      unitPriceMinor: id('unit_price_minor').notNull(),
    },
    (table) => [primaryKey({ columns: [table.orderId, table.skuId] })],
  );

/** Each transition after the creation. */
export const orderHistoryTable = (suffix: string) =>
  mysqlTable(
    `order_history_${suffix}`,
    {
      orderId: id('order_id').notNull(),
      version: int('version').notNull(),
      fromStatus: tinyint('from_status').notNull(),
      toStatus: tinyint('to_status').notNull(),
      closeReason: tinyint('close_reason').notNull().default(0),
      createTime: time('create_time').notNull(),
    },
    (table) => [primaryKey({ columns: [table.orderId, table.version] })],
  );

export const orders = ordersTable('00');
export const orderItems = orderItemsTable('00');
export const orderHistory = orderHistoryTable('00');

/** Events of committed changes that Kafka may not have yet. */
export const outbox = mysqlTable('outbox', {
  id: id('id').notNull().autoincrement().primaryKey(),
  payload: mediumblob('payload').notNull(),
  createTime: time('create_time').notNull(),
  owner: varbinary('owner', { length: 64 }),
  ownedUntil: time('owned_until'),
});

/** Events that left the outbox unpublished, so that they hold up no others. */
export const outboxSetAside = mysqlTable(
  'outbox_set_aside',
  {
    id: id('id').notNull().autoincrement().primaryKey(),
    outboxId: id('outbox_id').notNull(),
    payload: mediumblob('payload').notNull(),
    createTime: time('create_time').notNull(),
    reason: varchar('reason', { length: 500 }).notNull(),
    attempts: int('attempts').notNull().default(0),
    nextTime: time('next_time'),
    setAsideTime: time('set_aside_time').notNull(),
  },
  (table) => [index('due').on(table.nextTime)],
);

/** Where each logical slot lives; one row. */
export const slotMap = mysqlTable('slot_map', {
  id: tinyint('id').notNull().primaryKey(),
  version: int('version').notNull(),
  databaseIndex: int('database_index').notNull(),
  slotDatabases: int('slot_databases').notNull(),
  slotTables: int('slot_tables').notNull(),
  slots: mediumtext('slots').notNull(),
});

/** Leases of the worker numbers inside order ids. */
export const workers = mysqlTable('workers', {
  workerId: tinyint('worker_id', { unsigned: true }).notNull().primaryKey(),
  owner: varbinary('owner', { length: 64 }),
  leasedUntil: time('leased_until').notNull(),
  highWaterMs: id('high_water_ms').notNull(),
});

/** Overdue orders whose payment has begun, while their sessions are to be voided. */
export const overdueBegun = mysqlTable(
  'overdue_begun',
  {
    orderId: id('order_id').notNull().primaryKey(),
    attempts: int('attempts').notNull().default(0),
    processing: tinyint('processing').notNull().default(0),
    nextTime: time('next_time').notNull(),
  },
  (table) => [index('due').on(table.nextTime)],
);

/** Orders that were taken out of the tables above by age. */
export const archivedOrders = mysqlTable(
  'archived_orders',
  {
    orderId: id('order_id').notNull().primaryKey(),
    userId: id('user_id').notNull(),
    status: tinyint('status').notNull(),
    closeReason: tinyint('close_reason').notNull(),
    version: int('version').notNull(),
    totalMinor: id('total_minor').notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    paymentId: id('payment_id').notNull(),
    refundedMinor: id('refunded_minor').notNull(),
    updateTime: time('update_time').notNull(),
    archiveTime: time('archive_time').notNull(),
    body: mediumtext('body').notNull(),
  },
  (table) => [index('user_orders').on(table.userId, table.orderId)],
);
