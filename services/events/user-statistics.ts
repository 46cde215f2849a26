import type { RowDataPacket } from 'mysql2';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import {
  duplicateKeyErrno,
  mysqlErrno,
  type Pool,
  type PoolConnection,
  transaction,
} from '../runtime/mysql.ts';
import { compare, type KnownOrderEvent, newestByOrder } from './order-event.ts';
import { figureNames, figuresOf, noFigures, type OrderFigures } from './order-figures.ts';

/** How often a batch may meet rows that another consumer inserted between its reading and writing. */
const attemptsMax = 5;

/** What the statistics contain of one order. */
interface CountedOrder {
  readonly orderId: bigint;
  readonly version: number;
  readonly userId: bigint;
  readonly currency: string;
  readonly status: number;
  readonly totalMinor: bigint;
  readonly refundedMinor: bigint;
}

/** Adds events to the statistics of their users: each once, however often and in whatever order it comes. */
export type UserStatistics = (
  events: readonly KnownOrderEvent[],
  deadline: Deadline,
) => Promise<void>;

/**
 * Counts by difference: the newest version that was counted of each order is a row, locked while
 * the difference to a newer one goes into the figures of its user, in one transaction for a batch.
 */
export function createUserStatistics(pool: Pool): UserStatistics {
  return async (events, deadline) => {
    const newest = newestByOrder(events).map(countedOf);
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await transaction(pool, { deadline }, (connection) => count(connection, newest));
      } catch (error) {
        // A row that was absent exists now; the next attempt reads it.
        if (mysqlErrno(error) !== duplicateKeyErrno || attempt >= attemptsMax) throw error;
      }
    }
  };
}

async function count(connection: PoolConnection, newest: readonly CountedOrder[]): Promise<void> {
  const counted = await lockCounted(connection, newest);
  const newer = newest.filter(
    ({ orderId, version }) => version > (counted.get(orderId)?.version ?? 0),
  );
  if (newer.length === 0) return;
  await insertCounted(
    connection,
    newer.filter(({ orderId }) => !counted.has(orderId)),
  );
  await replaceCounted(
    connection,
    newer.filter(({ orderId }) => counted.has(orderId)),
  );
  await addDifferences(connection, newer, counted);
  if (failpoints.on) await failpoints.hit('statistics.before_commit', { orders: newer.length });
}

async function lockCounted(
  connection: PoolConnection,
  orders: readonly CountedOrder[],
): Promise<ReadonlyMap<bigint, CountedOrder>> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT order_id, version, user_id, status, total_minor, refunded_minor, currency
     FROM counted_orders WHERE order_id IN (?) ORDER BY order_id FOR UPDATE`,
    [orders.map(({ orderId }) => orderId)],
  );
  const counted = rows.map(
    (row): CountedOrder => ({
      orderId: BigInt(row.order_id),
      version: row.version,
      userId: BigInt(row.user_id),
      currency: row.currency,
      status: row.status,
      totalMinor: BigInt(row.total_minor),
      refundedMinor: BigInt(row.refunded_minor),
    }),
  );
  return new Map(counted.map((order) => [order.orderId, order]));
}

const columns =
  'order_id, version, user_id, status, total_minor, refunded_minor, currency, update_time';

async function insertCounted(
  connection: PoolConnection,
  orders: readonly CountedOrder[],
): Promise<void> {
  if (orders.length === 0) return;
  const values = orders.map(valuesOf).join(',');
  await connection.query(`INSERT INTO counted_orders (${columns}) VALUES ${values}`);
}

async function replaceCounted(
  connection: PoolConnection,
  orders: readonly CountedOrder[],
): Promise<void> {
  if (orders.length === 0) return;
  const values = orders.map(valuesOf).join(',');
  await connection.query(
    `INSERT INTO counted_orders (${columns}) VALUES ${values}
     ON DUPLICATE KEY UPDATE version = VALUES(version), user_id = VALUES(user_id),
       status = VALUES(status), total_minor = VALUES(total_minor),
       refunded_minor = VALUES(refunded_minor), currency = VALUES(currency),
       update_time = VALUES(update_time)`,
  );
}

/** The currency is three capital letters, the rest are numbers: nothing here needs escaping. */
function valuesOf(order: CountedOrder): string {
  const { orderId, version, userId, status, totalMinor, refundedMinor, currency } = order;
  return `(${orderId},${version},${userId},${status},${totalMinor},${refundedMinor},'${currency}',NOW(3))`;
}

/** Figures of one user in one currency. */
interface Difference extends OrderFigures {
  readonly userId: bigint;
  readonly currency: string;
}

/** Rows of users are taken in ascending order, so that batches with the same users cannot block each other for ever. */
async function addDifferences(
  connection: PoolConnection,
  newer: readonly CountedOrder[],
  counted: ReadonlyMap<bigint, CountedOrder>,
): Promise<void> {
  const differences = new Map<string, Difference>();
  for (const order of newer) {
    add(differences, order, 1n);
    const before = counted.get(order.orderId);
    if (before) add(differences, before, -1n);
  }
  const changed = [...differences.values()]
    .filter((difference) => figureNames.some((name) => difference[name] !== 0n))
    .sort((a, b) => compare(a.userId, b.userId) || (a.currency < b.currency ? -1 : 1));
  if (changed.length === 0) return;
  const values = changed.map((difference) => {
    const figures = figureNames.map((name) => difference[name]).join(',');
    return `(${difference.userId},'${difference.currency}',${figures},NOW(3))`;
  });
  await connection.query(
    `INSERT INTO user_statistics (user_id, currency, orders, paid, cancelled, refunded, paid_minor,
       refunded_minor, update_time) VALUES ${values.join(',')}
     ON DUPLICATE KEY UPDATE orders = orders + VALUES(orders), paid = paid + VALUES(paid),
       cancelled = cancelled + VALUES(cancelled), refunded = refunded + VALUES(refunded),
       paid_minor = paid_minor + VALUES(paid_minor),
       refunded_minor = refunded_minor + VALUES(refunded_minor), update_time = VALUES(update_time)`,
  );
}

function add(differences: Map<string, Difference>, order: CountedOrder, factor: bigint): void {
  const { userId, currency } = order;
  const key = `${userId} ${currency}`;
  const difference = differences.get(key) ?? { userId, currency, ...noFigures() };
  const figures = figuresOf(order);
  for (const name of figureNames) difference[name] += factor * figures[name];
  differences.set(key, difference);
}

function countedOf(event: KnownOrderEvent): CountedOrder {
  const { orderId, version, userId, status, total, refunded } = event;
  const totalMinor = total.minorUnits;
  const refundedMinor = refunded?.minorUnits ?? 0n;
  const currency = total.currencyCode;
  return { orderId, version, userId, currency, status, totalMinor, refundedMinor };
}
