import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query, transaction } from '../runtime/mysql.ts';
import { holdState } from './hold-states.ts';
import { ascending } from './ledger-sql.ts';
import { firstOrderIdAt } from './order-clock.ts';

/** How long a process keeps the sweep without being heard of. One that hangs holds the others up no longer. */
const claimSeconds = 4;
/** A watermark that is further ahead than clocks may differ was raised by a clock that was wrong. */
const aheadMsMax = 5_000;

/** Where the sweep is, and whether this process has the right to go on with it. */
export interface SweepClaim {
  readonly cursor: bigint;
  readonly ours: boolean;
}

/** Takes or keeps the right to sweep, unless another process has it. */
export async function claimSweep(
  pool: Pool,
  owner: string,
  deadline: Deadline,
): Promise<SweepClaim> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT order_id, owner IS NULL OR owner = ? OR owned_until < NOW(3)
         OR owned_until > NOW(3) + INTERVAL ${2 * claimSeconds} SECOND AS free
       FROM sweep_cursor WHERE id = 1 FOR UPDATE`,
      [Buffer.from(owner)],
    );
    const cursor = BigInt(rows[0]?.order_id ?? 0);
    if (rows[0] === undefined || Number(rows[0].free) !== 1) return { cursor, ours: false };
    await connection.query(
      `UPDATE sweep_cursor SET owner = ?, owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND
       WHERE id = 1`,
      [Buffer.from(owner)],
    );
    return { cursor, ours: true };
  });
}

/**
 * Moves the cursor on and keeps the claim; false if another process has taken it over, or the cursor
 * is not where this one left it.
 */
export async function moveSweepCursor(
  pool: Pool,
  owner: string,
  { from, to }: { from: bigint; to: bigint },
  deadline: Deadline,
): Promise<boolean> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT order_id, owner FROM sweep_cursor WHERE id = 1 FOR UPDATE',
    );
    const row = rows[0];
    const isOurs = (row?.owner as Buffer | null)?.toString() === owner;
    if (!isOurs || BigInt(row?.order_id) !== from) return false;
    await connection.query<ResultSetHeader>(
      `UPDATE sweep_cursor SET order_id = ?,
         owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND WHERE id = 1`,
      [to],
    );
    return true;
  });
}

/** Gives the claim up, so that another process need not wait for it to run out. */
export async function releaseSweep(pool: Pool, owner: string, deadline: Deadline): Promise<void> {
  const sql = 'UPDATE sweep_cursor SET owner = NULL WHERE id = 1 AND owner = ?';
  await query(pool, sql, [Buffer.from(owner)], { deadline });
}

/** The watermark after a raise, and whether it had run ahead and was set back. */
export interface RaisedWatermark {
  readonly orderId: bigint;
  readonly repaired: boolean;
}

/**
 * Raises the watermark to the last order id that is at least `ageMs` old. It waits for no post: a post
 * reads the watermark after it has inserted its holds, and whoever raises it reads the holds afterwards
 * with those of transactions under way. So each hold at or below it is seen, or its post is refused.
 *
 * A watermark in the future, raised by a clock that was wrong, would refuse every order until then. It
 * is set back, and the sweep's cursor with it: what was found dead under it has a fence of its own by
 * now, and what is posted below it from now on is looked at by the sweep.
 *
 * @param nowMs the time that the clocks agree on
 */
export async function raiseWatermark(
  pool: Pool,
  { nowMs, ageMs }: { nowMs: number; ageMs: number },
  deadline: Deadline,
): Promise<RaisedWatermark> {
  const due = firstOrderIdAt(nowMs - ageMs) - 1n;
  const target = due > 0n ? due : 0n;
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT order_id FROM watermark WHERE id = 1 FOR UPDATE',
    );
    const stored = BigInt(rows[0]?.order_id);
    const repaired = stored > firstOrderIdAt(nowMs + aheadMsMax);
    if (repaired) {
      await connection.query('UPDATE sweep_cursor SET order_id = LEAST(order_id, ?) WHERE id = 1', [
        target,
      ]);
    } else if (stored >= target) {
      return { orderId: stored, repaired };
    }
    await connection.query('UPDATE watermark SET order_id = ? WHERE id = 1', [target]);
    return { orderId: target, repaired };
  });
}

/** Order ids to look at: those behind `after` and not above `until`. */
export interface SweepRange {
  readonly after: bigint;
  readonly until: bigint;
}

/** Orders with a hold that is HELD, ascending, and the last id that was looked at. */
export interface SweepPage {
  readonly orderIds: readonly bigint[];
  readonly last: bigint;
}

/**
 * Reads the next page of a range, `rowsMax` rows at most whatever their state. Holds of transactions
 * under way count, and so do those that one is about to move: either may be HELD in the end.
 */
export async function readSweepPage(
  pool: Pool,
  { after, until }: SweepRange,
  { rowsMax, ordersMax }: { rowsMax: number; ordersMax: number },
  deadline: Deadline,
): Promise<SweepPage> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT order_id FROM stock_holds FORCE INDEX (PRIMARY)
     WHERE order_id > ? AND order_id <= ? ORDER BY order_id LIMIT 1 OFFSET ${rowsMax - 1}`,
    [after, until],
    { deadline },
  );
  const end = rows[0] === undefined ? until : BigInt(rows[0].order_id);
  const found = await heldNow(
    pool,
    `order_id > ${after} AND order_id <= ${end} ORDER BY order_id LIMIT ${ordersMax}`,
    deadline,
  );
  const orderIds = found.slice(0, ordersMax);
  const full = orderIds.length === ordersMax;
  return { orderIds, last: full ? (orderIds.at(-1) as bigint) : end };
}

/** Which of some orders have a hold that is HELD, also in a transaction under way. */
export async function heldAmong(
  pool: Pool,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<ReadonlySet<bigint>> {
  if (orderIds.length === 0) return new Set();
  const found = await heldNow(pool, `order_id IN (${orderIds.join(',')})`, deadline);
  return new Set(found);
}

/** Ascending; both as committed and as the newest transactions have it. For a pool with `multipleStatements`. */
async function heldNow(pool: Pool, where: string, deadline: Deadline): Promise<bigint[]> {
  const select = `SELECT DISTINCT order_id FROM stock_holds FORCE INDEX (PRIMARY)
     WHERE state = ${holdState.HELD} AND ${where}`;
  const results = await query<RowDataPacket[][]>(
    pool,
    `${select}; SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; ${select}`,
    [],
    { deadline },
  );
  const [committed = [], , newest = []] = results;
  return ascending([...committed, ...newest].map((row) => BigInt(row.order_id)));
}

/** Orders with a hold that is HELD and committed, behind `after` and not above `until`, ascending. */
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
