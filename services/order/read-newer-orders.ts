import type { RowDataPacket } from 'mysql2/promise';
import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { OrderDatabase } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import type { OrderReader } from './order-reader.ts';
import { type OrderShards, tableSuffix } from './order-shards.ts';
import { byTable } from './read-orders.ts';

/** Ids in one statement at most. */
const idsMax = 1_000;

/**
 * Shows those orders whose version is above the known one: first the versions are read, one table
 * after the other, then only what has changed, through the reader's batches. A database that fails
 * does not keep the others from being read. @throws what reading the first failing database threw
 */
export async function readNewerOrders(
  shards: OrderShards,
  reader: OrderReader,
  knownVersions: ReadonlyMap<bigint, number>,
  show: (order: Order) => void,
  deadline: Deadline,
): Promise<void> {
  const { routes } = shards;
  const byDatabase = Map.groupBy(knownVersions.keys(), (orderId) =>
    routes.databaseOf(slotOfOrder(orderId)),
  );
  const reads = [...byDatabase].map(async ([index, orderIds]) => {
    const database = shards.database(index);
    for (const [table, group] of byTable(routes, orderIds, slotOfOrder)) {
      for (let start = 0; start < group.length; start += idsMax) {
        const part = group.slice(start, start + idsMax);
        const newer = await newerIds(database, tableSuffix(table), part, knownVersions, deadline);
        const found = await Promise.all(newer.map((orderId) => reader.byId(orderId, deadline)));
        for (const stored of found) if (stored !== undefined) show(stored.order);
      }
    }
  });
  const failed = (await Promise.allSettled(reads)).find(({ status }) => status === 'rejected');
  if (failed?.status === 'rejected') throw failed.reason;
}

async function newerIds(
  database: OrderDatabase,
  table: string,
  orderIds: readonly bigint[],
  knownVersions: ReadonlyMap<bigint, number>,
  deadline: Deadline,
): Promise<bigint[]> {
  const rows = await database.query<RowDataPacket[]>(
    `SELECT order_id, version FROM orders_${table} WHERE order_id IN (${orderIds})`,
    deadline,
  );
  return rows
    .map((row) => ({ orderId: BigInt(row.order_id), version: row.version as number }))
    .filter(({ orderId, version }) => version > (knownVersions.get(orderId) ?? 0))
    .map(({ orderId }) => orderId);
}
