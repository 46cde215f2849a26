import {
  bigint,
  binary,
  char,
  datetime,
  index,
  int,
  mysqlTable,
  primaryKey,
  tinyint,
  varbinary,
  varchar,
} from 'drizzle-orm/mysql-core';

/**
 * The stock ledger as drizzle sees it; `migrations/` has the same with the reasons, and the checks
 * compare both. Times are UTC. The service itself does not load it: drizzle costs a process 130 MB.
 */
export const skus = mysqlTable('skus', {
  skuId: bigint('sku_id', { mode: 'bigint' }).primaryKey().notNull(),
  title: varchar('title', { length: 200 }).notNull(),
  currency: char('currency', { length: 3 }).notNull(),
  unitPriceMinor: bigint('unit_price_minor', { mode: 'bigint' }).notNull(),
  openTime: datetime('open_time', { fsp: 3 }),
  closeTime: datetime('close_time', { fsp: 3 }),
  limitPerUser: int('limit_per_user').notNull(),
  paused: tinyint('paused').notNull(),
  settingsVersion: bigint('settings_version', { mode: 'bigint' }).notNull(),
  supplied: bigint('supplied', { mode: 'bigint' }).notNull(),
  available: bigint('available', { mode: 'bigint' }).notNull(),
  held: bigint('held', { mode: 'bigint' }).notNull(),
  sold: bigint('sold', { mode: 'bigint' }).notNull(),
  epoch: bigint('epoch', { mode: 'bigint' }).notNull(),
  creationDigest: binary('creation_digest', { length: 16 }).notNull(),
  createTime: datetime('create_time', { fsp: 3 }).notNull(),
  updateTime: datetime('update_time', { fsp: 3 }).notNull(),
});

/** One row per (order, SKU); states are in `services/stock/hold-states.ts`. */
export const stockHolds = mysqlTable(
  'stock_holds',
  {
    orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
    skuId: bigint('sku_id', { mode: 'bigint' }).notNull(),
    userId: bigint('user_id', { mode: 'bigint' }).notNull(),
    requestId: varbinary('request_id', { length: 128 }).notNull(),
    fingerprint: binary('fingerprint', { length: 16 }).notNull(),
    units: int('units').notNull(),
    unitPriceMinor: bigint('unit_price_minor', { mode: 'bigint' }).notNull(),
    currency: char('currency', { length: 3 }).notNull(),
    state: tinyint('state').notNull(),
    createTime: datetime('create_time', { fsp: 3 }).notNull(),
    updateTime: datetime('update_time', { fsp: 3 }).notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.orderId, table.skuId] }),
    index('holds_by_buyer').on(table.skuId, table.userId, table.state, table.units),
  ],
);

/** One row: the highest order id that may no longer be posted. */
export const watermark = mysqlTable('watermark', {
  id: tinyint('id').primaryKey().notNull(),
  orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
});

/** One row: up to where holds were checked against orders, and who checks them. */
export const sweepCursor = mysqlTable('sweep_cursor', {
  id: tinyint('id').primaryKey().notNull(),
  orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
  owner: varbinary('owner', { length: 64 }),
  ownedUntil: datetime('owned_until', { fsp: 3 }),
});

/** One row: how far the second look at old holds has come, and who takes it. */
export const recheckCursor = mysqlTable('recheck_cursor', {
  id: tinyint('id').primaryKey().notNull(),
  orderId: bigint('order_id', { mode: 'bigint' }).notNull(),
  owner: varbinary('owner', { length: 64 }),
  ownedUntil: datetime('owned_until', { fsp: 3 }),
  dueTime: datetime('due_time', { fsp: 3 }).notNull(),
});

/** Operators' adjustments, each counted once by its request id. */
export const stockAdjustments = mysqlTable('stock_adjustments', {
  requestId: varbinary('request_id', { length: 128 }).primaryKey().notNull(),
  skuId: bigint('sku_id', { mode: 'bigint' }).notNull(),
  delta: bigint('delta', { mode: 'bigint' }).notNull(),
  createTime: datetime('create_time', { fsp: 3 }).notNull(),
});

/** One row: how far the audit has come, and who does it. */
export const auditCursor = mysqlTable('audit_cursor', {
  id: tinyint('id').primaryKey().notNull(),
  skuId: bigint('sku_id', { mode: 'bigint' }).notNull(),
  owner: varbinary('owner', { length: 64 }),
  ownedUntil: datetime('owned_until', { fsp: 3 }),
  passTime: datetime('pass_time', { fsp: 3 }),
  auditedTime: datetime('audited_time', { fsp: 3 }).notNull(),
  dueTime: datetime('due_time', { fsp: 3 }).notNull(),
});

/** SKUs whose last recount found a promise broken. */
export const auditBreaches = mysqlTable(
  'audit_breaches',
  {
    skuId: bigint('sku_id', { mode: 'bigint' }).notNull(),
    promise: varchar('promise', { length: 16 }).notNull(),
    detail: varchar('detail', { length: 500 }).notNull(),
    foundTime: datetime('found_time', { fsp: 3 }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.skuId, table.promise] })],
);

/** One row: which process looks at all gates, and until when by MySQL's clock. */
export const keeper = mysqlTable('keeper', {
  id: tinyint('id').primaryKey().notNull(),
  owner: varbinary('owner', { length: 64 }),
  ownedUntil: datetime('owned_until', { fsp: 3 }),
});
