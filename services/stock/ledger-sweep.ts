import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query, transaction } from '../runtime/mysql.ts';
import { holdState } from './hold-states.ts';
import { orderEpochMs, orderIdTailBits } from './order-clock.ts';

/** How long a process keeps the sweep without being heard of. */
const claimSeconds = 10;

/** Takes or keeps the right to sweep. Answers the stored cursor, or undefined while another has it. */
export async function claimSweep(
  pool: Pool,
  owner: string,
  deadline: Deadline,
): Promise<bigint | undefined> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT order_id, owner IS NULL OR owner = ? OR owned_until < NOW(3) AS free
       FROM sweep_cursor WHERE id = 1 FOR UPDATE`,
      [Buffer.from(owner)],
    );
    if (rows[0] === undefined || Number(rows[0].free) !== 1) return undefined;
    await connection.query(
      `UPDATE sweep_cursor SET owner = ?, owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND
       WHERE id = 1`,
      [Buffer.from(owner)],
    );
    return BigInt(rows[0].order_id);
  });
}

/** Moves the cursor and keeps the claim; false if another process has taken it over. */
export async function moveSweepCursor(
  pool: Pool,
  owner: string,
  cursor: bigint,
  deadline: Deadline,
): Promise<boolean> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT owner FROM sweep_cursor WHERE id = 1 FOR UPDATE',
    );
    if ((rows[0]?.owner as Buffer | null)?.toString() !== owner) return false;
    await connection.query<ResultSetHeader>(
      `UPDATE sweep_cursor SET order_id = GREATEST(order_id, ?),
         owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND WHERE id = 1`,
      [cursor],
    );
    return true;
  });
}

/** Gives the claim up, so that another process need not wait for it to run out. */
export async function releaseSweep(pool: Pool, owner: string, deadline: Deadline): Promise<void> {
  const sql = 'UPDATE sweep_cursor SET owner = NULL WHERE id = 1 AND owner = ?';
  await query(pool, sql, [Buffer.from(owner)], { deadline });
}

/**
 * Raises the watermark to the last order id that is at least `ageMs` old by MySQL's clock, and
 * answers it. The row's lock waits for posts under way: afterwards every hold at or below it is
 * visible, and none can come.
 */
export async function raiseWatermark(
  pool: Pool,
  ageMs: number,
  deadline: Deadline,
): Promise<bigint> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [clock] = await connection.query<RowDataPacket[]>(
      'SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) AS now_ms',
    );
    const sinceMs = BigInt(clock[0]?.now_ms) - BigInt(orderEpochMs) - BigInt(Math.round(ageMs));
    const orderId = sinceMs > 0n ? (sinceMs << BigInt(orderIdTailBits)) - 1n : 0n;
    await connection.query('UPDATE watermark SET order_id = GREATEST(order_id, ?) WHERE id = 1', [
      orderId,
    ]);
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT order_id FROM watermark WHERE id = 1',
    );
    return BigInt(rows[0]?.order_id);
  });
}

/** Orders with a hold that is HELD, behind `after` and not above `until`, ascending. */
export async function heldOrders(
  pool: Pool,
  { after, until, max }: { after: bigint; until: bigint; max: number },
  deadline: Deadline,
): Promise<bigint[]> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT DISTINCT order_id FROM stock_holds FORCE INDEX (PRIMARY)
     WHERE order_id > ? AND order_id <= ? AND state = ${holdState.HELD}
     ORDER BY order_id LIMIT ${max}`,
    [after, until],
    { deadline },
  );
  return rows.map((row) => BigInt(row.order_id));
}
