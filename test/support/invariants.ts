import assert from 'node:assert/strict';
import type { StockAdminServiceClient } from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import type { Pool } from '../../services/runtime/mysql.ts';
import { eventually } from './eventually.ts';
import { orderShards } from './system.ts';
import type { Answered, Click } from './workload.ts';

const held = 1;
const sold = 2;
const restocked = 4;
const refunded = 4;
const aborted = 8;
const cancelled = 5;

/** What the check looks at. */
export interface Inspected {
  readonly stockPool: Pool;
  readonly orderPools: readonly Pool[];
  readonly admin: StockAdminServiceClient;
}

interface OrderRow {
  readonly orderId: string;
  readonly userId: string;
  readonly requestId: string | undefined;
  readonly status: number;
}

interface HoldRow {
  readonly orderId: string;
  readonly skuId: string;
  readonly units: number;
  readonly state: number;
}

/**
 * Compares MySQL, Redis and the recorded history with the promises P1–P5, and names every breach.
 * An empty answer is what a test waits for: holds of lost orders and pending entries need the
 * sweeps to come round.
 */
export async function findBreaches(
  system: Inspected,
  history: readonly Click[] = [],
): Promise<string[]> {
  const orders = await readOrders(system.orderPools);
  const holds = await readHolds(system.stockPool);
  return [
    ...(await ledgerBreaches(system.stockPool, holds)),
    ...holdBreaches(orders, holds),
    ...(await itemBreaches(system.orderPools, orders, holds)),
    ...historyBreaches(orders, history),
    ...(await gateBreaches(system)),
  ];
}

/** P4 and P5 give the system this long to settle what a fault has left behind. */
const settledWithinMs = 60_000;

/** Waits until no promise is broken. @throws AssertionError naming the breaches that stay */
export async function expectNoBreaches(
  system: Inspected,
  history: readonly Click[] = [],
): Promise<void> {
  let breaches: string[] = ['not looked yet'];
  const clean = async (): Promise<boolean> => {
    breaches = await findBreaches(system, history);
    return breaches.length === 0;
  };
  const bounds = { withinMs: settledWithinMs, everyMs: 250 };
  await eventually(clean, 'no promise is broken', bounds).catch((cause) => {
    assert.deepEqual(breaches, [], String(cause));
    throw cause;
  });
}

/** Every order that exists, fences left out. */
export async function readOrders(pools: readonly Pool[]): Promise<Map<string, OrderRow>> {
  const orders = new Map<string, OrderRow>();
  for (const pool of pools) {
    for (let table = 0; table < orderShards.tables; table += 1) {
      const [rows] = await pool.query(
        `SELECT order_id, user_id, request_id, status FROM orders_${suffix(table)}
         WHERE status <> ${aborted}`,
      );
      for (const row of rows as Record<string, unknown>[]) {
        const orderId = String(row.order_id);
        if (orders.has(orderId)) throw new Error(`order ${orderId} is in two tables`);
        orders.set(orderId, {
          orderId,
          userId: String(row.user_id),
          requestId: (row.request_id as Buffer | null)?.toString('latin1'),
          status: Number(row.status),
        });
      }
    }
  }
  return orders;
}

async function readHolds(pool: Pool): Promise<HoldRow[]> {
  const [rows] = await pool.query('SELECT order_id, sku_id, units, state FROM stock_holds');
  return (rows as Record<string, unknown>[]).map((row) => ({
    orderId: String(row.order_id),
    skuId: String(row.sku_id),
    units: Number(row.units),
    state: Number(row.state),
  }));
}

/** P1: the ledger's figures add up and are what its rows say. */
async function ledgerBreaches(pool: Pool, holds: readonly HoldRow[]): Promise<string[]> {
  const breaches: string[] = [];
  const [rows] = await pool.query('SELECT sku_id, supplied, available, held, sold FROM skus');
  for (const row of rows as Record<string, string>[]) {
    const sum = (state: number): number =>
      holds
        .filter((hold) => hold.skuId === String(row.sku_id) && hold.state === state)
        .reduce((units, hold) => units + hold.units, 0);
    const figures = `SKU ${row.sku_id}: ${JSON.stringify(row)}`;
    const [supplied, available] = [Number(row.supplied), Number(row.available)];
    if (supplied !== available + Number(row.held) + Number(row.sold) || available < 0) {
      breaches.push(`P1 figures do not add up: ${figures}`);
    }
    if (sum(held) !== Number(row.held) || sum(sold) !== Number(row.sold)) {
      breaches.push(`P1 rows say held ${sum(held)} and sold ${sum(sold)}: ${figures}`);
    }
  }
  return breaches;
}

/** P5: a hold lives exactly as long as its order. */
function holdBreaches(orders: ReadonlyMap<string, OrderRow>, holds: readonly HoldRow[]): string[] {
  const breaches: string[] = [];
  for (const hold of holds) {
    const order = orders.get(hold.orderId);
    const live = order !== undefined && order.status !== cancelled;
    if (hold.state === held && !live) {
      breaches.push(`P5 order ${hold.orderId} of SKU ${hold.skuId} is held and not alive`);
    }
    const isRestocked = hold.state === restocked && order?.status === refunded;
    if (live && hold.state !== held && hold.state !== sold && !isRestocked) {
      breaches.push(`P1 order ${hold.orderId} lives on a hold in state ${hold.state}`);
    }
  }
  return breaches;
}

/** P1 again, from the orders' side: what was sold is what is held, line by line. */
async function itemBreaches(
  pools: readonly Pool[],
  orders: ReadonlyMap<string, OrderRow>,
  holds: readonly HoldRow[],
): Promise<string[]> {
  const breaches: string[] = [];
  const unitsOf = new Map(holds.map((hold) => [`${hold.orderId}/${hold.skuId}`, hold.units]));
  const withItems = new Set<string>();
  for (const pool of pools) {
    for (let table = 0; table < orderShards.tables; table += 1) {
      const [rows] = await pool.query(
        `SELECT order_id, sku_id, quantity FROM order_items_${suffix(table)}`,
      );
      for (const row of rows as Record<string, string>[]) {
        const line = `${row.order_id}/${row.sku_id}`;
        withItems.add(String(row.order_id));
        if (!orders.has(String(row.order_id))) breaches.push(`P3 items without an order: ${line}`);
        else if (unitsOf.get(line) !== Number(row.quantity)) {
          breaches.push(`P1 ordered ${row.quantity}, held ${unitsOf.get(line)}: ${line}`);
        }
      }
    }
  }
  for (const orderId of orders.keys()) {
    if (!withItems.has(orderId)) breaches.push(`P3 order ${orderId} has no items`);
  }
  return breaches;
}

/** P2, P3 and P4: what was answered is what is there. */
function historyBreaches(
  orders: ReadonlyMap<string, OrderRow>,
  history: readonly Click[],
): string[] {
  const breaches: string[] = [];
  const byRequest = new Map<string, string[]>();
  for (const { userId, requestId, orderId } of orders.values()) {
    const key = `${userId}/${requestId}`;
    byRequest.set(key, [...(byRequest.get(key) ?? []), orderId]);
  }
  for (const [key, ids] of byRequest) {
    if (ids.length > 1) breaches.push(`P2 request ${key} has orders ${ids.join(', ')}`);
  }
  for (const { userId, requestId, outcomes } of history) {
    const stored = byRequest.get(`${userId}/${requestId}`) ?? [];
    const answered = new Set<string>();
    for (const outcome of outcomes) {
      if (outcome.kind === 'ok') answered.add(String(outcome.orderId));
    }
    for (const orderId of answered) {
      if (!stored.includes(orderId)) breaches.push(`P3 answered order ${orderId} is not there`);
    }
    const last = outcomes.at(-1);
    const refusedOnly = outcomes.length > 0 && outcomes.every(({ kind }) => kind === 'refused');
    const inTheEnd = refusalForGood(last);
    if ((refusedOnly || inTheEnd !== undefined) && stored.length > 0) {
      const how = refusedOnly ? 'only refused' : `refused in the end (${inTheEnd})`;
      breaches.push(`P3 request ${userId}/${requestId} was ${how}, yet ${stored} exists`);
    }
  }
  return breaches;
}

/** Refusals of the sale itself: they say that the request has no order, whatever was answered before. */
const refusalsForGood = new Set([
  'SOLD_OUT',
  'PURCHASE_LIMIT',
  'SALE_NOT_STARTED',
  'SALE_ENDED',
  'SKU_PAUSED',
]);

/** Why the buyer was told in the end, with no other attempt under way, that there is no order. */
function refusalForGood(last: Answered | undefined): string | undefined {
  if (last?.kind !== 'refused' || last.alone !== true) return undefined;
  return refusalsForGood.has(last.reason) ? last.reason : undefined;
}

/** I5: at rest the gate admits what the ledger has, and waits for nothing. */
async function gateBreaches({ stockPool, admin }: Inspected): Promise<string[]> {
  const breaches: string[] = [];
  const [rows] = await stockPool.query('SELECT sku_id, available FROM skus');
  for (const row of rows as Record<string, string>[]) {
    const skuId = BigInt(row.sku_id as string);
    const layers = await admin.getStockLayers({ skuId }).catch((error: Error) => error);
    if (layers instanceof Error) {
      breaches.push(`I5 the gate of SKU ${skuId} cannot be read: ${layers.message}`);
      continue;
    }
    const { gate } = layers;
    if (!gate?.loaded) breaches.push(`I5 the gate of SKU ${row.sku_id} is ${gate?.state}`);
    else if (gate.available !== BigInt(row.available as string)) {
      breaches.push(
        `I5 gate ${gate.available}, ledger ${row.available}, pending ${gate.pendingOrders}`,
      );
    } else if (gate.pendingOrders !== 0n) breaches.push(`P5 ${gate.pendingOrders} are pending`);
  }
  return breaches;
}

function suffix(table: number): string {
  return String(table).padStart(2, '0');
}
