import type { Row } from '../stores.ts';
import type { StoresLook } from './promise.ts';

/** Rows that one statement reads at most. */
const pageRows = 20_000;
/** Users compared in one pass over the counted orders: some 40 MB of memory. */
const usersPerPass = 100_000;
const examplesMax = 100;

type ReadRows = (sql: string) => Promise<Row[]>;

/** The figures of each user and currency, in the order of `figures`; exact up to 2^53. */
type Figures = Map<string, Float64Array>;

/** What an order adds to its user's figures, by what it is now. */
const figures = [
  'SUM(status BETWEEN 1 AND 5)',
  'SUM(status IN (2, 3))',
  'SUM(status = 5)',
  'SUM(status = 4)',
  'SUM(IF(status IN (2, 3, 4), total_minor, 0))',
  'SUM(IF(status IN (2, 3, 4), refunded_minor, 0))',
];
const stored = 'orders, paid, cancelled, refunded, paid_minor, refunded_minor';

/**
 * The statistics of each user are what the counted orders add up to: both change in one transaction. Users are compared some at a
 * time, each time in one snapshot, and nothing is read but page by page.
 */
export async function lookAtStatistics({ stores, count, report }: StoresLook): Promise<void> {
  for (let after: bigint | undefined = -1n, found = 0; after !== undefined; ) {
    const from: bigint = after;
    const pass = await stores.events.inSnapshot((rows) => comparePass(rows, from));
    count('users', pass.users);
    for (const key of pass.wrong.slice(0, examplesMax - found)) {
      const [userId, currency] = key.split(' ');
      found += 1;
      report({
        kind: 'statistics-do-not-add-up',
        sentence: `the ${currency} statistics of user ${userId} are not what the counted orders add up to`,
      });
    }
    after = found < examplesMax ? pass.last : undefined;
  }
}

interface Pass {
  /** Rows of statistics that were read. */
  readonly users: number;
  readonly wrong: readonly string[];
  /** The last user of this pass; undefined if there are no more. */
  readonly last: bigint | undefined;
}

async function comparePass(rows: ReadRows, after: bigint): Promise<Pass> {
  const { statistics, last } = await readStatistics(rows, after);
  const range = `user_id > ${after}${last === undefined ? '' : ` AND user_id <= ${last}`}`;
  const counted = await addUpOrders(rows, range);
  const wrong: string[] = [];
  for (const [key, own] of statistics) {
    const sums = counted.get(key);
    // Statistics of orders that were never counted; without any order they say nothing.
    const isWrong = sums === undefined ? own[0] !== 0 : own.some((value, at) => value !== sums[at]);
    if (isWrong) wrong.push(key);
  }
  for (const [key, sums] of counted) {
    if (!statistics.has(key) && sums[0] !== 0) wrong.push(key);
  }
  return { users: statistics.size, wrong, last };
}

async function readStatistics(
  rows: ReadRows,
  after: bigint,
): Promise<{ statistics: Figures; last: bigint | undefined }> {
  const statistics: Figures = new Map();
  for (let from = after; ; ) {
    const page = await rows(
      `SELECT user_id, currency, ${stored} FROM user_statistics WHERE user_id > ${from} ORDER BY user_id, currency LIMIT ${pageRows}`,
    );
    const last = page.length < pageRows ? undefined : BigInt(String(page.at(-1)?.[0]));
    // The last user may have more currencies than the page shows: he is left to the next one.
    const whole =
      last === undefined ? page : page.filter(([userId]) => String(userId) !== String(last));
    for (const row of whole) statistics.set(`${row[0]} ${row[1]}`, valuesOf(row));
    if (last === undefined) return { statistics, last: undefined };
    from = last - 1n;
    if (statistics.size >= usersPerPass) return { statistics, last: from };
  }
}

async function addUpOrders(rows: ReadRows, range: string): Promise<Figures> {
  const sums: Figures = new Map();
  for (let after = '-1'; ; ) {
    const [end] = await rows(
      `SELECT order_id FROM counted_orders FORCE INDEX (PRIMARY) WHERE order_id > ${after} ORDER BY order_id LIMIT 1 OFFSET ${pageRows - 1}`,
    );
    const page = `order_id > ${after}${end === undefined ? '' : ` AND order_id <= ${end[0]}`}`;
    const found = await rows(
      `SELECT user_id, currency, ${figures.join(', ')} FROM counted_orders FORCE INDEX (PRIMARY)
       WHERE ${page} AND ${range} GROUP BY user_id, currency`,
    );
    for (const row of found) {
      const key = `${row[0]} ${row[1]}`;
      const values = valuesOf(row);
      const before = sums.get(key);
      sums.set(key, before?.map((value, at) => value + (values[at] as number)) ?? values);
    }
    if (end === undefined) return sums;
    after = String(end[0]);
  }
}

function valuesOf(row: Row): Float64Array {
  return Float64Array.from(row.slice(2), Number);
}
