import type { RowDataPacket } from 'mysql2/promise';
import type {
  ListOrderVersionsResponse,
  OrderVersion,
} from '../../gen/sluice/event/v1/order_state_service.ts';
import type { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { isHidden } from './order.ts';
import type { OrderDatabase } from './order-database.ts';
import { slotOfOrder } from './order-id.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';

/** Which versions of one database are listed, and from which end. */
export interface VersionsPage {
  readonly afterOrderId: bigint;
  readonly untilOrderId: bigint;
  readonly newestFirst: boolean;
  readonly pageSize: number;
  /** Milliseconds that an order must have been unchanged for. */
  readonly unchangedMs: bigint;
}

/** Orders are spread evenly over the tables; with some room, one page takes nearly all that was read. */
const roomFactor = 1.2;

/**
 * One page of the orders of a database. Of each table as many rows are read as its share of the page,
 * and the page reaches as far as the table that reaches least.
 *
 * @throws Refusal DEPENDENCY_DOWN or OVERLOADED
 */
export async function listOrderVersions(
  shards: OrderShards,
  database: OrderDatabase,
  page: VersionsPage,
  deadline: Deadline,
): Promise<Pick<ListOrderVersionsResponse, 'orders' | 'reachedOrderId'>> {
  const { routes } = shards;
  const tables = shards.tablesOf(database.index);
  const limit = Math.ceil((page.pageSize / Math.max(1, tables.length)) * roomFactor);
  const results = await readTables(database, tables, page, limit, deadline);
  const ends = results.flatMap((rows) => {
    return rows.length < limit ? [] : [BigInt((rows.at(-1) as RowDataPacket).order_id)];
  });
  const reachedOrderId = furthest(ends, page);
  const orders = results
    .flatMap((rows, at) => rows.filter((row) => isHere(routes, database, tables[at], row)))
    .filter((row) => isWanted(row, page, reachedOrderId))
    .map(versionOf)
    .sort((a, b) => compare(a.orderId, b.orderId, page));
  return { orders, reachedOrderId };
}

async function readTables(
  database: OrderDatabase,
  tables: readonly string[],
  { afterOrderId, untilOrderId, newestFirst, unchangedMs }: VersionsPage,
  limit: number,
  deadline: Deadline,
): Promise<RowDataPacket[][]> {
  if (tables.length === 0 || afterOrderId >= untilOrderId) return [];
  // Every row that is read counts, so that no statement reads on for want of unchanged ones.
  const statements = tables.map(
    (table) =>
      `SELECT order_id, version, status,
         update_time <= UTC_TIMESTAMP(3) - INTERVAL ${unchangedMs * 1_000n} MICROSECOND AS unchanged
       FROM orders_${table} FORCE INDEX (PRIMARY)
       WHERE order_id > ${afterOrderId} AND order_id <= ${untilOrderId}
       ORDER BY order_id ${newestFirst ? 'DESC' : 'ASC'} LIMIT ${limit}`,
  );
  const read = (): Promise<RowDataPacket[]> => database.query(statements.join(';'), deadline);
  const results = await database.inTurn(read, deadline);
  return tables.length === 1 ? [results] : (results as unknown as RowDataPacket[][]);
}

/** How far the page reaches, given the last rows of the tables that have more. */
function furthest(
  ends: readonly bigint[],
  { afterOrderId, untilOrderId, newestFirst }: VersionsPage,
): bigint {
  const least = (a: bigint, b: bigint): bigint => ((newestFirst ? a > b : a < b) ? a : b);
  return ends.reduce(least, newestFirst ? afterOrderId : untilOrderId);
}

/** A slot that has moved may have left rows behind. */
function isHere(
  routes: SlotRoutes,
  { index }: OrderDatabase,
  table: string | undefined,
  row: RowDataPacket,
): boolean {
  const slot = slotOfOrder(BigInt(row.order_id));
  return routes.databaseOf(slot) === index && tableSuffix(routes.tableOf(slot)) === table;
}

function isWanted(row: RowDataPacket, { newestFirst }: VersionsPage, reached: bigint): boolean {
  const orderId = BigInt(row.order_id);
  const isReached = newestFirst ? orderId >= reached : orderId <= reached;
  return isReached && Number(row.unchanged) === 1 && !isHidden(row.status as OrderStatus);
}

function versionOf(row: RowDataPacket): OrderVersion {
  return { orderId: BigInt(row.order_id), version: row.version, status: row.status };
}

function compare(a: bigint, b: bigint, { newestFirst }: VersionsPage): number {
  return a < b === newestFirst ? 1 : -1;
}
