import type { RowDataPacket } from 'mysql2/promise';
import type { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { OrderResolution } from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { fenceOrders } from './fence-orders.ts';
import { resolutionOf } from './order.ts';
import { StaleSlotMap } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';
import { byTable } from './read-orders.ts';

const { ORDER_RESOLUTION_DEAD: dead, ORDER_RESOLUTION_UNDECIDED: undecided } = OrderResolution;

/** Statuses by order id in decimal, as the driver reads BIGINT. */
type Statuses = Map<string, OrderStatus>;

/**
 * Decides which orders exist. A row that is read proves existence; an id without a row is fenced,
 * and only the fence proves absence. What a lock, a move of slots, or a database that is away leaves
 * open is undecided; the other databases' orders are decided all the same.
 *
 * @throws Refusal DEPENDENCY_DOWN before the slot map was read
 */
export async function resolveOrders(
  shards: OrderShards,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<OrderResolution[]> {
  const { routes } = shards;
  const keys = orderIds.map(String);
  const statuses: Statuses = new Map();
  const undecidedKeys = new Set<string>();
  await Promise.all(
    shards.databases.map((database) => {
      const mine = orderIds.filter((id) => routes.databaseOf(slotOfOrder(id)) === database.index);
      if (mine.length === 0) return undefined;
      const work = (): Promise<void> =>
        resolveInDatabase(shards, routes, database.index, mine, statuses, undecidedKeys, deadline);
      return database.inTurn(work, deadline).catch(() => {
        // What was read of it before is known; the rest may be there.
        for (const id of mine) undecidedKeys.add(String(id));
      });
    }),
  );
  return keys.map((key) => {
    const status = statuses.get(key);
    if (status !== undefined) return resolutionOf(status);
    return undecidedKeys.has(key) ? undecided : dead;
  });
}

async function resolveInDatabase(
  shards: OrderShards,
  routes: SlotRoutes,
  databaseIndex: number,
  orderIds: readonly bigint[],
  statuses: Statuses,
  undecidedKeys: Set<string>,
  deadline: Deadline,
): Promise<void> {
  await readStatuses(shards, routes, databaseIndex, orderIds, statuses, deadline);
  const absent = orderIds.filter((id) => !statuses.has(String(id)));
  if (absent.length === 0) return;
  await fenceAbsent(shards, routes, databaseIndex, absent, statuses, undecidedKeys, deadline);
}

/** One table after the other: a sweep must not take all connections of a database. */
async function readStatuses(
  shards: OrderShards,
  routes: SlotRoutes,
  databaseIndex: number,
  orderIds: readonly bigint[],
  statuses: Statuses,
  deadline: Deadline,
): Promise<void> {
  for (const [table, group] of byTable(routes, orderIds, slotOfOrder)) {
    const rows = await shards
      .database(databaseIndex)
      .query<RowDataPacket[]>(
        `SELECT order_id, status FROM orders_${tableSuffix(table)} WHERE order_id IN (${group})`,
        deadline,
      );
    for (const row of rows) statuses.set(row.order_id, row.status);
  }
}

async function fenceAbsent(
  shards: OrderShards,
  routes: SlotRoutes,
  databaseIndex: number,
  absent: readonly bigint[],
  statuses: Statuses,
  undecidedKeys: Set<string>,
  deadline: Deadline,
): Promise<void> {
  for (const orderId of absent) undecidedKeys.add(String(orderId));
  try {
    const fences = await fenceOrders(shards, routes, databaseIndex, absent, deadline);
    const there = absent.filter((id) => fences.get(id) === 'exists');
    if (there.length > 0)
      await readStatuses(shards, routes, databaseIndex, there, statuses, deadline);
    for (const [orderId, outcome] of fences) {
      if (outcome === 'fenced') undecidedKeys.delete(String(orderId));
    }
  } catch (error) {
    // Whatever was fenced before the failure is read as fenced when it is asked for again.
    if (error instanceof StaleSlotMap) await shards.refresh(databaseIndex, deadline);
  }
}
