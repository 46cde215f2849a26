import type { RowDataPacket } from 'mysql2/promise';
import { connect } from './compare-with-mysql.ts';
import type { Stack } from './options.ts';
import type { Sale } from './sale.ts';

/** When orders expire, in seconds from the moment that the times were given. */
export interface ExpiryWindow {
  readonly from: number;
  readonly seconds: number;
}

/**
 * Spreads the times of a sale's orders evenly over the windows, in MySQL, by its clock.
 *
 * @returns `performance.now()` of the moment from which the windows count
 */
export async function giveTimes(
  stack: Stack,
  sale: Sale,
  windows: readonly ExpiryWindow[],
): Promise<number> {
  const { databases, tables } = stack.orderShards;
  const first = await connect(stack, 0, 'order_0');
  const [rows] = await first.query<RowDataPacket[]>('SELECT UTC_TIMESTAMP(3) AS now');
  const startMs = performance.now();
  await first.end();
  const offset = offsetSql(windows);
  for (let database = 0; database < databases; database += 1) {
    const connection = await connect(stack, database, `order_${database}`);
    try {
      for (let table = 0; table < tables; table += 1) {
        await connection.query(
          `UPDATE orders_${String(table).padStart(2, '0')}
           SET expire_time = ? + INTERVAL ROUND((${offset}) * 1000000) MICROSECOND
           WHERE user_id BETWEEN ? AND ?`,
          [rows[0]?.now, sale.firstUserId, sale.lastUserId],
        );
      }
    } finally {
      await connection.end();
    }
  }
  return startMs;
}

/** Seconds after the start, as SQL: a hash of the order's id is its place in all windows together. */
function offsetSql(windows: readonly ExpiryWindow[]): string {
  const total = windows.reduce((sum, { seconds }) => sum + seconds, 0);
  const place = `CRC32(order_id) * ${total} / 4294967296e0`;
  let before = 0;
  const cases = windows.map(({ from, seconds }) => {
    const shift = from - before;
    before += seconds;
    return `WHEN ${place} < ${before} THEN ${place} + ${shift}`;
  });
  return `CASE ${cases.join(' ')} END`;
}
