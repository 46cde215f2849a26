import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query, transaction } from '../runtime/mysql.ts';

/** How long a process keeps a turn without being heard of: longer than the turn may take. */
const claimSeconds = 10;
/** Longer than any rest: a time further ahead was written by a clock that has been set back since. */
const dueSecondsMax = 400;

/** Recent orders are compared often, older ones in slow passes. */
export const catchUpWalks = { recent: 1, old: 2 } as const;
export type CatchUpWalk = keyof typeof catchUpWalks;

/** A turn that this process has for itself. */
export interface CatchUpTurn {
  readonly consumer: string;
  readonly walk: CatchUpWalk;
  readonly databaseIndex: number;
  /** The last order that the pass under way has looked at; 0 if it is to begin. */
  readonly orderId: bigint;
  /** MySQL's time. */
  readonly nowMs: number;
  readonly owner: string;
}

/** Sees to it that each walk of a consumer has its cursor in so many databases. */
export async function addCursors(
  pool: Pool,
  consumer: string,
  databases: number,
  deadline: Deadline,
): Promise<void> {
  const rows = Object.values(catchUpWalks).flatMap((walk) =>
    Array.from({ length: databases }, (_, index) => [consumer, walk, index]),
  );
  await query(
    pool,
    `INSERT INTO catch_up_cursors (consumer, walk, database_index, order_id, due_time)
     VALUES ${rows.map(() => '(?, 0, NOW(3))').join(',')}
     ON DUPLICATE KEY UPDATE walk = VALUES(walk)`,
    rows,
    { deadline },
  );
}

/** Takes the turn of a consumer that is due longest; undefined if none is, or others have them. */
export async function claimTurn(
  pool: Pool,
  consumer: string,
  owner: string,
  deadline: Deadline,
): Promise<CatchUpTurn | undefined> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT walk, database_index, order_id, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) AS now_ms
       FROM catch_up_cursors
       WHERE consumer = ?
         AND (due_time <= NOW(3) OR due_time > NOW(3) + INTERVAL ${dueSecondsMax} SECOND)
         AND (owner IS NULL OR owned_until < NOW(3)
           OR owned_until > NOW(3) + INTERVAL ${2 * claimSeconds} SECOND)
       ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED`,
      [consumer],
    );
    const row = rows[0];
    if (row === undefined) return undefined;
    await connection.query(
      `UPDATE catch_up_cursors SET owner = ?, owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND
       WHERE consumer = ? AND walk = ? AND database_index = ?`,
      [Buffer.from(owner), consumer, row.walk, row.database_index],
    );
    return {
      consumer,
      walk: row.walk === catchUpWalks.recent ? 'recent' : 'old',
      databaseIndex: row.database_index,
      orderId: BigInt(row.order_id),
      nowMs: Number(row.now_ms),
      owner,
    };
  });
}

/**
 * Stores how far a turn came, and gives it up; the next one comes after `restMs`. Nothing is stored if
 * another process has taken over.
 *
 * @param orderId 0 ends the pass; undefined leaves the cursor where it was
 */
export async function storeTurn(
  pool: Pool,
  { consumer, walk, databaseIndex, owner }: CatchUpTurn,
  orderId: bigint | undefined,
  restMs: number,
  deadline: Deadline,
): Promise<void> {
  const moved = orderId === undefined ? '' : `order_id = ${orderId},`;
  const passed = orderId === 0n ? 'pass_time = NOW(3),' : '';
  await query(
    pool,
    `UPDATE catch_up_cursors SET ${moved} ${passed} owner = NULL,
       due_time = NOW(3) + INTERVAL ? MICROSECOND
     WHERE consumer = ? AND walk = ? AND database_index = ? AND owner = ?`,
    [
      ...[Math.round(restMs) * 1_000, consumer],
      ...[catchUpWalks[walk], databaseIndex, Buffer.from(owner)],
    ],
    { deadline },
  );
}
