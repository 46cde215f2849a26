import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query, transaction } from '../runtime/mysql.ts';
import { heldOrders } from './ledger-sweep.ts';
import { firstOrderIdAt } from './order-clock.ts';

/** How long a process keeps a walk without being heard of; one that hangs holds the others up no longer. */
const claimSeconds = 5;
/** Longer than any rest: a time further ahead was written by a clock that has been set back since. */
const dueSecondsMax = 400;

/** The two walks over old holds, by the id of their cursors. */
export const recheckWalks = {
  /** Over all old holds, again and again. */
  pass: 1,
  /** Once over each hold, when its order comes of age. */
  edge: 2,
} as const;
export type RecheckWalk = keyof typeof recheckWalks;

/** Who takes which walk. */
export interface RecheckClaim {
  readonly walk: RecheckWalk;
  readonly owner: string;
}

/** Order ids to look at: those behind `after` and not above `until`. */
export interface RecheckRange {
  readonly after: bigint;
  readonly until: bigint;
}

/**
 * Takes the right to look. Answers what is left of the walk: orders made between two times. None is above
 * the watermark, so nobody is asked for an order that may still be on its way. Undefined if another
 * process has the right, or it is not time yet.
 */
export async function claimRecheck(
  pool: Pool,
  { walk, owner }: RecheckClaim,
  { sinceMs, untilMs }: { sinceMs: number; untilMs: number },
  deadline: Deadline,
): Promise<RecheckRange | undefined> {
  const id = recheckWalks[walk];
  return await transaction(pool, { deadline }, async (connection) => {
    const [cursors] = await connection.query<RowDataPacket[]>(
      `SELECT order_id,
         (owner IS NULL OR owner = ? OR owned_until < NOW(3)
           OR owned_until > NOW(3) + INTERVAL ${2 * claimSeconds} SECOND)
         AND (due_time <= NOW(3) OR due_time > NOW(3) + INTERVAL ${dueSecondsMax} SECOND) AS free
       FROM recheck_cursor WHERE id = ${id} FOR UPDATE`,
      [Buffer.from(owner)],
    );
    const cursor = cursors[0];
    if (cursor === undefined || Number(cursor.free) !== 1) return undefined;
    await connection.query(
      `UPDATE recheck_cursor SET owner = ?, owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND
       WHERE id = ${id}`,
      [Buffer.from(owner)],
    );
    const [marks] = await connection.query<RowDataPacket[]>(
      'SELECT order_id FROM watermark WHERE id = 1',
    );
    const [oldest, youngest] = [firstOrderIdAt(sinceMs), firstOrderIdAt(untilMs)];
    const [stored, watermark] = [BigInt(cursor.order_id), BigInt(marks[0]?.order_id ?? 0)];
    return {
      after: stored > oldest ? stored : oldest,
      until: watermark < youngest ? watermark : youngest,
    };
  });
}

/** What one turn looks at. */
export interface RecheckPage {
  /** Orders with a hold that is HELD, ascending. */
  readonly orderIds: readonly bigint[];
  /** The last order that was looked at, with or without such a hold. */
  readonly last: bigint;
}

/** Reads the next page of a range: two statements over `rowsMax` rows of the primary key at most. */
export async function readRecheckPage(
  pool: Pool,
  { after, until }: RecheckRange,
  { rowsMax, ordersMax }: { rowsMax: number; ordersMax: number },
  deadline: Deadline,
): Promise<RecheckPage> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT order_id FROM stock_holds FORCE INDEX (PRIMARY)
     WHERE order_id > ? AND order_id <= ? ORDER BY order_id LIMIT 1 OFFSET ${rowsMax - 1}`,
    [after, until],
    { deadline },
  );
  const end = rows[0] === undefined ? until : BigInt(rows[0].order_id);
  const orderIds = await heldOrders(pool, { after, until: end, max: ordersMax }, deadline);
  return { orderIds, last: orderIds.length < ordersMax ? end : (orderIds.at(-1) as bigint) };
}

/**
 * Moves the cursor and gives the claim up; the next turn, of whichever process, comes after `restMs`.
 * Nothing is stored if another process has taken over.
 */
export async function storeRecheckTurn(
  pool: Pool,
  { walk, owner }: RecheckClaim,
  cursor: bigint,
  restMs: number,
  deadline: Deadline,
): Promise<void> {
  await query<ResultSetHeader>(
    pool,
    `UPDATE recheck_cursor SET order_id = ?, owner = NULL,
       due_time = NOW(3) + INTERVAL ? MICROSECOND WHERE id = ${recheckWalks[walk]} AND owner = ?`,
    [cursor, Math.round(restMs * 1_000), Buffer.from(owner)],
    { deadline },
  );
}

/** Gives the claim up after a turn that failed. */
export async function releaseRecheck(
  pool: Pool,
  { walk, owner }: RecheckClaim,
  deadline: Deadline,
): Promise<void> {
  const id = recheckWalks[walk];
  const sql = `UPDATE recheck_cursor SET owner = NULL WHERE id = ${id} AND owner = ?`;
  await query(pool, sql, [Buffer.from(owner)], { deadline });
}
