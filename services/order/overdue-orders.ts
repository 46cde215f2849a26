import type { RowDataPacket } from 'mysql2/promise';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderDatabase } from './order-database.ts';
import { timeLiteral } from './order-rows.ts';
import type { OrderShards } from './order-shards.ts';

// Unpaid orders whose time is over, by the time that the clocks agree on. Each read is a short range of the index `due`.

export interface Overdue {
  /** Orders that no payment was begun for, counted up to a bound in each table. */
  readonly notBegun: number;
  readonly begun: number;
  /** Of those begun, orders whose payment the bank has not decided on: nothing can be done about them. */
  readonly processing: number;
  /** How long the time of the oldest is over, in milliseconds, those in processing aside; 0 if there is none. */
  readonly oldestAgeMs: number;
}

const { ORDER_STATUS_PENDING: pending } = OrderStatus;
/** Orders counted in one table at most: a backlog must not make its own figure dear. */
const countMax = 1_000;

/** Counts the overdue orders of one database. @throws Refusal DEPENDENCY_DOWN */
export async function readOverdue(
  shards: OrderShards,
  database: OrderDatabase,
  deadline: Deadline,
): Promise<Overdue> {
  const time = database.now();
  if (time === undefined) throw new Refusal('DEPENDENCY_DOWN', 'The clocks disagree');
  const now = timeLiteral(time);
  const counts = shards.tablesOf(database.index).flatMap((table) => {
    const due = (begun: number): string =>
      `(SELECT order_id, expire_time FROM orders_${table} FORCE INDEX (due)
        WHERE status = ${pending} AND payment_begun = ${begun} AND expire_time <= ${now}
        ORDER BY expire_time LIMIT ${countMax}) AS due`;
    const age = (column: string): string =>
      `TIMESTAMPDIFF(MICROSECOND, MIN(${column}), ${now}) DIV 1000 AS age_ms`;
    return [
      `SELECT 0 AS begun, COUNT(*) AS orders, 0 AS processing, ${age('expire_time')} FROM ${due(0)}`,
      `SELECT 1 AS begun, COUNT(*) AS orders, COALESCE(SUM(o.processing), 0) AS processing,
         ${age('IF(o.processing = 1, NULL, due.expire_time)')}
       FROM ${due(1)} LEFT JOIN overdue_begun o ON o.order_id = due.order_id`,
    ];
  });
  if (counts.length === 0) return { notBegun: 0, begun: 0, processing: 0, oldestAgeMs: 0 };
  const rows = await database.query<RowDataPacket[]>(counts.join(' UNION ALL '), deadline);
  const sum = (begun: number): number =>
    rows
      .filter((row) => Number(row.begun) === begun)
      .reduce((total, row) => total + Number(row.orders), 0);
  const oldestAgeMs = Math.max(0, ...rows.map((row) => Number(row.age_ms ?? 0)));
  const processing = rows.reduce((total, row) => total + Number(row.processing), 0);
  return { notBegun: sum(0), begun: sum(1), processing, oldestAgeMs };
}
