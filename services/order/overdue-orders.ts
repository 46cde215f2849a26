import type { RowDataPacket } from 'mysql2/promise';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { OrderDatabase } from './order-database.ts';
import type { OrderShards } from './order-shards.ts';

// Unpaid orders whose time is over, by MySQL's clock. Each read is a short range of the index `due`.

export interface Overdue {
  /** Orders that no payment was begun for, counted up to a bound in each table. */
  readonly notBegun: number;
  readonly begun: number;
  /** How long the time of the oldest is over, in milliseconds; 0 if there is none. */
  readonly oldestAgeMs: number;
}

/** Where a walk through the overdue orders of one table stands; undefined at its start. */
export type OverduePosition = { readonly expireTime: string; readonly orderId: string } | undefined;

const { ORDER_STATUS_PENDING: pending } = OrderStatus;
/** Orders counted in one table at most: a backlog must not make its own figure dear. */
const countMax = 1_000;

/** Counts the overdue orders of one database. @throws Refusal DEPENDENCY_DOWN */
export async function readOverdue(
  shards: OrderShards,
  database: OrderDatabase,
  deadline: Deadline,
): Promise<Overdue> {
  const counts = shards.tablesOf(database.index).flatMap((table) =>
    [0, 1].map(
      (begun) =>
        `SELECT ${begun} AS begun, COUNT(*) AS orders,
           TIMESTAMPDIFF(MICROSECOND, MIN(expire_time), UTC_TIMESTAMP(3)) DIV 1000 AS age_ms
         FROM (SELECT expire_time FROM orders_${table} FORCE INDEX (due)
               WHERE status = ${pending} AND payment_begun = ${begun} AND expire_time <= UTC_TIMESTAMP(3)
               ORDER BY expire_time LIMIT ${countMax}) AS due`,
    ),
  );
  if (counts.length === 0) return { notBegun: 0, begun: 0, oldestAgeMs: 0 };
  const rows = await database.query<RowDataPacket[]>(counts.join(' UNION ALL '), deadline);
  const sum = (begun: number): number =>
    rows
      .filter((row) => Number(row.begun) === begun)
      .reduce((total, row) => total + Number(row.orders), 0);
  const oldestAgeMs = Math.max(0, ...rows.map((row) => Number(row.age_ms ?? 0)));
  return { notBegun: sum(0), begun: sum(1), oldestAgeMs };
}

/** The next overdue orders of a table whose payment has begun, oldest first. @throws as `readOverdue` */
export async function readOverdueBegun(
  database: OrderDatabase,
  table: string,
  after: OverduePosition,
  limit: number,
  deadline: Deadline,
): Promise<{ orderIds: bigint[]; position: OverduePosition }> {
  // Written as a range of the index and a remainder: MariaDB reads a row comparison from the start.
  const onward =
    after === undefined
      ? ''
      : `AND expire_time >= '${after.expireTime}'
         AND (expire_time > '${after.expireTime}' OR order_id > ${after.orderId})`;
  const rows = await database.query<RowDataPacket[]>(
    `SELECT order_id, CAST(expire_time AS CHAR) AS at FROM orders_${table} FORCE INDEX (due)
     WHERE status = ${pending} AND payment_begun = 1 AND expire_time <= UTC_TIMESTAMP(3) ${onward}
     ORDER BY expire_time, order_id LIMIT ${limit}`,
    deadline,
  );
  const last = rows.length === limit ? rows.at(-1) : undefined;
  return {
    orderIds: rows.map((row) => BigInt(row.order_id)),
    position: last === undefined ? undefined : { expireTime: last.at, orderId: last.order_id },
  };
}
