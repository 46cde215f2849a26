import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import type { ResultSetHeader } from 'mysql2/promise';
import { createChannel, createClientFactory, Metadata } from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import { migrateAll } from '../../db/migrate.ts';
import { freePort } from '../../deploy/local/port.ts';
import { startRedis } from '../../deploy/local/redis.ts';
import {
  type StockAdminServiceClient,
  StockAdminServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import {
  type ReservationResult,
  type StockReservation,
  type StockServiceClient,
  StockServiceDefinition,
} from '../../gen/sluice/stock/v1/stock_service.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { failpoints } from '../../services/runtime/failpoints.ts';
import { deadlineLeftHeader } from '../../services/runtime/grpc-deadline.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { compose } from '../../services/stock/compose.ts';
import { readConfig } from '../../services/stock/config.ts';
import type { KnownBusySkus } from '../../services/stock/ledger-locks.ts';
import { firstOrderIdAt } from '../../services/stock/order-clock.ts';
import type { Resolution } from '../../services/stock/order-gateway.ts';
import { dropDatabases } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';

/**
 * Age at which the loops settle where a test waits for them; elsewhere no order may come to it. Longer than
 * a machine may stand still: an order on its way must not be settled because of that.
 */
export const shortSettleAgeMs = 4_000;
export const shortAge = { SLUICE_SETTLE_AGE_MS: String(shortSettleAgeMs) };

/** Nothing is unknown because the machine stood still for a moment; tests of lost answers set their own. */
const redisTimeoutMs = 10_000;
/** What a call may take; without it the service takes 5 s. */
const budgetMs = 30_000;
const restBoundMs = 60_000;

/** A stock service of its own Redis and database, without Kafka, and an order service made of answers. */
export interface StockSystem {
  readonly stock: StockServiceClient;
  readonly admin: StockAdminServiceClient;
  readonly redis: Redis;
  readonly pool: Pool;
  /** What the order service answers for an id, LIVE unless told otherwise, and what it was asked. */
  readonly orders: {
    resolve: (orderId: bigint) => Resolution;
    asked: bigint[];
    calls: (readonly bigint[])[];
  };
  readonly port: number;
  readonly metricsPort: number;
  /** The name of the stock database. */
  readonly database: string;
  /** The copy that the clients above lead to. */
  readonly first: StockClients;
  /** Starts another copy of the service; it stops with the system. */
  startCopy(variables?: Record<string, string>): Promise<StockClients>;
  restartRedis(meanwhile?: (dir: string) => void): Promise<void>;
  close(): Promise<void>;
}

/** Nothing is known to be busy, and nothing is remembered. */
export const noBusySkus: KnownBusySkus = {
  among: () => new Set(),
  note: () => undefined,
  took: () => undefined,
  lockWaitMs: () => 500,
};

export interface StockClients {
  readonly stock: StockServiceClient;
  readonly admin: StockAdminServiceClient;
  readonly port: number;
  readonly metricsPort: number;
  stop(): Promise<void>;
}

export async function startStockSystem(
  name: string,
  variables: Record<string, string> = {},
  databaseUrl = mysqlUrl,
): Promise<StockSystem> {
  const prefix = uniquePrefix(name);
  const dir = mkdtempSync(join(tmpdir(), 'sluice-stock-'));
  const redisDir = join(dir, 'redis');
  let redisServer = await startRedis({ dir: redisDir, port: await freePort() });
  const orderShards = { databases: 0, tables: 1 };
  await migrateAll({ mysqlUrls: [databaseUrl], databasePrefix: prefix, orderShards });
  const orders: StockSystem['orders'] = { resolve: () => 'LIVE', asked: [], calls: [] };
  const env = {
    SLUICE_MYSQL_URLS: databaseUrl,
    SLUICE_REDIS_URL: redisServer.url,
    SLUICE_REDIS_TIMEOUT_MS: String(redisTimeoutMs),
    SLUICE_DATABASE_PREFIX: prefix,
    // Tests hold transactions at failpoints for longer than a process may.
    SLUICE_MYSQL_REST_SECONDS: '60',
    SLUICE_STOCK_PORT: '0',
    SLUICE_STOCK_METRICS_PORT: '0',
    SLUICE_DEMO: '1',
    SLUICE_LOG_LEVEL: process.env.SLUICE_LOG_LEVEL ?? 'silent',
    ...variables,
  };
  const copies: StockClients[] = [];
  const startCopy = async (more: Record<string, string> = {}): Promise<StockClients> => {
    const copy = await startService({ ...env, ...more }, orders);
    copies.push(copy);
    return copy;
  };
  const first = await startCopy();
  const redis = new Redis(redisServer.url, { maxRetriesPerRequest: null });
  redis.on('error', () => undefined);
  const database = `${prefix}_stock`;
  const pool = createPool(databaseUrl, { database, connectionsMax: 6, multipleStatements: true });
  return {
    ...{ ...first, first, redis, pool, database, orders, startCopy },
    async restartRedis(meanwhile) {
      const { port } = redisServer;
      await redisServer.kill();
      meanwhile?.(redisDir);
      redisServer = await startRedis({ dir: redisDir, port });
    },
    async close() {
      failpoints.clear();
      for (const copy of copies) await copy.stop();
      redis.disconnect();
      await redisServer.stop();
      await pool.end();
      // A server of the test's own goes with all it has.
      if (databaseUrl === mysqlUrl) await dropDatabases(prefix);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function startService(
  env: Record<string, string>,
  orders: StockSystem['orders'],
): Promise<StockClients> {
  const running = await compose(readConfig(env), {
    followOrders: false,
    order: {
      async resolve(orderIds) {
        orders.asked.push(...orderIds);
        orders.calls.push(orderIds);
        return orderIds.map(orders.resolve);
      },
      close() {},
    },
  });
  const channel = createChannel(`127.0.0.1:${running.port}`);
  const { token } = createTokens({ secret: demoTokenSecret }).sign({
    userId: 1n,
    role: 'admin',
    ttlSeconds: 3_600,
  });
  const budget = { [deadlineLeftHeader]: String(budgetMs) };
  const metadata = Metadata({ ...budget, authorization: `Bearer ${token}` });
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  return {
    stock: factory.create(StockServiceDefinition, channel, { '*': { metadata: Metadata(budget) } }),
    admin: factory.create(StockAdminServiceDefinition, channel, { '*': { metadata } }),
    port: running.port,
    metricsPort: running.metricsPort,
    async stop() {
      channel.close();
      await running.lifecycle.stop();
    },
  };
}

let sequence = 0n;

/** An order id of this moment. */
export function newOrderId(): bigint {
  sequence += 1n;
  return firstOrderIdAt(Date.now()) + (sequence % (1n << 22n));
}

let lastSku = 0n;

/** Creates a SKU and waits until its gate is open. */
export async function newSku(
  { admin }: Pick<StockSystem, 'admin'>,
  supplied: bigint,
  more: { limitPerUser?: number; openTime?: Date; closeTime?: Date; currency?: string } = {},
): Promise<bigint> {
  lastSku += 1n;
  const skuId = lastSku;
  const { currency = 'USD', ...settings } = more;
  const unitPrice = { currencyCode: currency, minorUnits: 1_999n };
  await admin.createSku({ skuId, title: `SKU ${skuId}`, unitPrice, supplied, ...settings });
  await untilOpen({ admin }, skuId);
  return skuId;
}

export async function untilOpen(
  { admin }: Pick<StockSystem, 'admin'>,
  skuId: bigint,
): Promise<void> {
  const isOpen = async (): Promise<boolean | undefined> =>
    (await admin.getStockLayers({ skuId })).gate?.loaded;
  await eventually(() => isOpen().catch(() => false), `the gate of SKU ${skuId} opens`);
}

let lastUser = 1_000n;

/** A reservation of one unit of each SKU by a new user, unless told otherwise. */
export function reservation(
  skuIds: readonly bigint[],
  more: Partial<StockReservation> & { quantity?: number } = {},
): StockReservation {
  lastUser += 1n;
  const { quantity = 1, ...fields } = more;
  return {
    orderId: newOrderId(),
    userId: lastUser,
    requestId: `request ${lastUser}`,
    fingerprint: Buffer.alloc(16, 7),
    lines: skuIds.map((skuId) => ({ skuId, quantity })),
    ...fields,
  };
}

/** Reserves one order and answers its outcome. */
export async function reserve(
  { stock }: Pick<StockSystem, 'stock'>,
  order: StockReservation,
): Promise<NonNullable<ReservationResult['outcome']>> {
  const { results } = await stock.reserveStock({ reservations: [order] });
  return results[0]?.outcome as NonNullable<ReservationResult['outcome']>;
}

/**
 * Changes a row as only a fault of ours could: the server checks nothing, and then refuses every later change
 * of the row that leaves it so. On a connection of its own, which waits for whoever has the row locked.
 */
export async function breakRow(
  pool: Pool,
  sql: string,
  values: readonly unknown[],
): Promise<number> {
  const connection = await pool.getConnection();
  try {
    await connection.query(
      'SET SESSION check_constraint_checks = 0, innodb_lock_wait_timeout = 50',
    );
    const [{ affectedRows }] = await connection.query<ResultSetHeader>(sql, [...values]);
    return affectedRows;
  } finally {
    connection.destroy();
  }
}

/** The holds of an order as `sku:state`, ascending. */
export async function holdsOf(pool: Pool, orderId: bigint): Promise<string[]> {
  const [rows] = await pool.query(
    'SELECT sku_id, state FROM stock_holds WHERE order_id = ? ORDER BY sku_id',
    [orderId],
  );
  return (rows as Record<string, unknown>[]).map((row) => `${row.sku_id}:${row.state}`);
}

/** Waits until gate and ledger agree and nothing is pending; answers the units available. */
export async function atRest(
  { admin }: Pick<StockSystem, 'admin'>,
  skuId: bigint,
): Promise<number> {
  let available = -1n;
  await eventually(
    async () => {
      const layers = await admin.getStockLayers({ skuId }).catch(() => undefined);
      const { gate, ledger } = layers ?? {};
      available = ledger?.available ?? -1n;
      return gate?.loaded && gate.pendingOrders === 0n && gate.available === available;
    },
    `gate and ledger of SKU ${skuId} agree`,
    // What is pending is settled at an age of 15 s, unless the test has another.
    { withinMs: restBoundMs },
  );
  return Number(available);
}
