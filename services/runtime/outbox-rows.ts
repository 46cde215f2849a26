import { randomUUID } from 'node:crypto';
import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import { Deadline } from './deadline.ts';
import { type Pool, type PoolConnection, query, transaction } from './mysql.ts';

// The rows of `outbox` and a relay's claim on them.

/** Rows claimed at once; a row holds the events of up to 500 orders. */
const claimRowsMax = 32;
/** How long a claim lasts unless it is renewed: so long a relay that died or hangs keeps its rows from the others. */
const claimMs = 4_000;
const renewEveryMs = 1_000;
const databaseMs = 3_000;

/** One row, with the events of one committed batch. */
export interface OutboxRow {
  readonly id: string;
  readonly payload: Buffer;
  readonly createTime: Date;
}

/** Rows that one relay has for itself. */
export interface ClaimedRows {
  readonly owner: string;
  readonly rows: readonly OutboxRow[];
}

const until = `NOW(3) + INTERVAL ${claimMs * 1_000} MICROSECOND`;
/** A claim that ends later was made by a clock that has been set back since. */
const farAhead = `NOW(3) + INTERVAL ${2 * claimMs * 1_000} MICROSECOND`;

/** Takes the oldest rows that nobody has, in a transaction of its own. */
export async function claimRows(pool: Pool): Promise<ClaimedRows> {
  const owner = randomUUID();
  const deadline = Deadline.after(databaseMs);
  const found = await transaction(pool, { deadline }, async (connection) => {
    // Rows that other relays or open transactions hold are passed over instead of waited for.
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT id, payload, create_time FROM outbox
       WHERE owned_until IS NULL OR owned_until < NOW(3) OR owned_until > ${farAhead}
       ORDER BY id LIMIT ${claimRowsMax} FOR UPDATE SKIP LOCKED`,
    );
    if (rows.length === 0) return rows;
    await connection.query(`UPDATE outbox SET owner = ?, owned_until = ${until} WHERE id IN (?)`, [
      owner,
      rows.map((row) => row.id),
    ]);
    return rows;
  });
  const rows = found.map((row) => ({
    id: row.id,
    payload: row.payload,
    createTime: row.create_time,
  }));
  return { owner, rows };
}

/** Renews a claim while `work` runs, so that it ends soon after its relay does. @throws what `work` throws */
export async function keepingClaim<Result>(
  pool: Pool,
  claimed: ClaimedRows,
  work: () => Promise<Result>,
): Promise<Result> {
  let renewing = false;
  const renewal = setInterval(() => {
    if (renewing) return;
    renewing = true;
    const sql = `UPDATE outbox SET owned_until = ${until} WHERE id IN (?) AND owner = ?`;
    // A claim that was lost costs a repetition.
    change(pool, sql, claimed)
      .catch(() => undefined)
      .finally(() => {
        renewing = false;
      });
  }, renewEveryMs);
  try {
    return await work();
  } finally {
    clearInterval(renewal);
  }
}

/** After a failed publication the next round need not wait for the claim to end. */
export async function giveRowsBack(pool: Pool, claimed: ClaimedRows): Promise<void> {
  const sql = 'UPDATE outbox SET owner = NULL, owned_until = NULL WHERE id IN (?) AND owner = ?';
  await change(pool, sql, claimed);
}

/** Removes rows that are published. */
export async function deleteRows(pool: Pool, claimed: ClaimedRows): Promise<void> {
  if (claimed.rows.length === 0) return;
  await change(pool, 'DELETE FROM outbox WHERE id IN (?) AND owner = ?', claimed);
}

/** Removes rows within a transaction that keeps their events elsewhere. @throws Error if the claim was lost */
export async function takeRowsOut(
  connection: PoolConnection,
  { rows, owner }: ClaimedRows,
): Promise<void> {
  const [{ affectedRows }] = await connection.query<ResultSetHeader>(
    'DELETE FROM outbox WHERE id IN (?) AND owner = ?',
    [rows.map(({ id }) => id), owner],
  );
  if (affectedRows !== rows.length) throw new Error('another relay has claimed the rows');
}

async function change(pool: Pool, sql: string, { rows, owner }: ClaimedRows): Promise<void> {
  const deadline = Deadline.after(databaseMs);
  await query(pool, sql, [rows.map(({ id }) => id), owner], { deadline });
}
