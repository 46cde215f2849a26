import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query, transaction } from '../runtime/mysql.ts';
import { holdState } from './hold-states.ts';
import type { SnapshotReader } from './ledger-snapshot.ts';

/** P1 is the design's; `limit` says that a user has more than the limit per user. */
export const auditedPromises = ['P1', 'limit'] as const;
export type AuditedPromise = (typeof auditedPromises)[number];

/** A promise that a SKU's rows break; the detail has figures only, nothing about a user. */
export interface LedgerBreach {
  readonly skuId: bigint;
  readonly promise: AuditedPromise;
  readonly detail: string;
}

/** How long a process keeps the audit without being heard of. */
const claimSeconds = 30;
/** What clocks of a server and its successor may differ by, in milliseconds. */
const clockSlackMs = 60_000;
/** Buyers that one statement groups: some 15 ms of the server's time. */
const chunkUsers = 20_000;

/**
 * Takes the right to audit. Answers the SKU behind which to go on; undefined if it is not our turn. A claim or a rest that
 * ends later than any can was stored while MySQL's clock was ahead, and does not count.
 *
 * @param restMaxMs the longest rest that a turn stores, in milliseconds
 */
export async function claimAudit(
  pool: Pool,
  owner: string,
  restMaxMs: number,
  deadline: Deadline,
): Promise<bigint | undefined> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT sku_id,
         (owner IS NULL OR owner = ? OR owned_until < NOW(3)
           OR owned_until > NOW(3) + INTERVAL ${2 * claimSeconds} SECOND)
         AND (due_time <= NOW(3) OR due_time > NOW(3) + INTERVAL ? MICROSECOND) AS free
       FROM audit_cursor WHERE id = 1 FOR UPDATE`,
      [Buffer.from(owner), Math.round((restMaxMs + clockSlackMs) * 1_000)],
    );
    if (rows[0] === undefined || Number(rows[0].free) !== 1) return undefined;
    await connection.query(
      `UPDATE audit_cursor SET owner = ?, owned_until = NOW(3) + INTERVAL ${claimSeconds} SECOND,
         pass_time = COALESCE(pass_time, NOW(3)) WHERE id = 1`,
      [Buffer.from(owner)],
    );
    return BigInt(rows[0].sku_id);
  });
}

/** What a turn of the audit came to. */
export interface AuditTurn {
  /** SKUs that were recounted, all between the claimed cursor and the last of them. */
  readonly skuIds: readonly bigint[];
  readonly breaches: readonly LedgerBreach[];
  /** Whether there is no SKU behind the last one. */
  readonly passDone: boolean;
}

/**
 * Stores what a turn found, moves the cursor and gives the claim up; the next turn, of whichever
 * process, comes after `restMs`. Answers false, and stores nothing, if another process has taken the
 * audit over.
 */
export async function storeAuditTurn(
  pool: Pool,
  owner: string,
  { skuIds, breaches, passDone }: AuditTurn,
  restMs: number,
  deadline: Deadline,
): Promise<boolean> {
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT owner FROM audit_cursor WHERE id = 1 FOR UPDATE',
    );
    if ((rows[0]?.owner as Buffer | null)?.toString() !== owner) return false;
    if (skuIds.length > 0) {
      await connection.query('DELETE FROM audit_breaches WHERE sku_id IN (?)', [skuIds]);
    }
    if (breaches.length > 0) {
      const values = breaches.map(({ skuId, promise, detail }) => [skuId, promise, detail]);
      await connection.query(
        `INSERT INTO audit_breaches (sku_id, promise, detail, found_time)
         VALUES ${values.map(() => '(?, NOW(3))').join(', ')}`,
        values,
      );
    }
    const progress = passDone
      ? 'sku_id = 0, audited_time = pass_time, pass_time = NULL'
      : `sku_id = ${skuIds.at(-1) ?? 0n}`;
    await connection.query(
      `UPDATE audit_cursor SET owner = NULL, due_time = NOW(3) + INTERVAL ? MICROSECOND,
         ${progress} WHERE id = 1`,
      [Math.round(restMs * 1_000)],
    );
    return true;
  });
}

/** Gives the claim up after a turn that failed. */
export async function releaseAudit(pool: Pool, owner: string, deadline: Deadline): Promise<void> {
  const sql = 'UPDATE audit_cursor SET owner = NULL WHERE id = 1 AND owner = ?';
  await query(pool, sql, [Buffer.from(owner)], { deadline });
}

/** What all processes show: SKUs in breach by promise, and how old the last complete pass is. */
export interface AuditResult {
  readonly breaches: ReadonlyMap<string, number>;
  readonly ageSeconds: number;
}

export async function readAuditResult(pool: Pool, deadline: Deadline): Promise<AuditResult> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT TIMESTAMPDIFF(MICROSECOND, audited_time, NOW(3)) / 1e6 AS age, promise, COUNT(promise) AS skus
     FROM audit_cursor LEFT JOIN audit_breaches ON TRUE WHERE id = 1 GROUP BY age, promise`,
    [],
    { deadline },
  );
  const breaches = new Map<string, number>();
  for (const { promise, skus } of rows) if (promise) breaches.set(promise, Number(skus));
  return { breaches, ageSeconds: Math.max(0, Number(rows[0]?.age ?? 0)) };
}

/** SKUs behind one, ascending. Reads on the connection, so in the moment that its snapshot sees. */
export async function skusBehind(
  connection: SnapshotReader,
  after: bigint,
  max: number,
): Promise<bigint[]> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT sku_id FROM skus WHERE sku_id > ? ORDER BY sku_id LIMIT ${max}`,
    [after],
  );
  return rows.map((row) => BigInt(row.sku_id));
}

/** Recounts one SKU's holds against its figures, both in the moment that the connection sees. */
export async function recountSku(
  connection: SnapshotReader,
  skuId: bigint,
): Promise<LedgerBreach[]> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT supplied, available, held, sold, limit_per_user, update_time
     FROM skus WHERE sku_id = ?`,
    [skuId],
  );
  if (rows[0] === undefined) return [];
  const limit = Number(rows[0].limit_per_user);
  const counted = await countHolds(connection, skuId, limit, rows[0].update_time);
  const [supplied, available, held, sold] = ['supplied', 'available', 'held', 'sold'].map(
    (figure) => BigInt(rows[0]?.[figure]),
  ) as [bigint, bigint, bigint, bigint];
  const breaches: LedgerBreach[] = [];
  const addsUp = supplied === available + held + sold;
  const negative = available < 0n || held < 0n || sold < 0n;
  if (!addsUp || negative || held !== counted.held || sold !== counted.sold) {
    const figures = `supplied ${supplied}, available ${available}, held ${held}, sold ${sold}`;
    const detail = `${figures}; the rows say held ${counted.held}, sold ${counted.sold}`;
    breaches.push({ skuId, promise: 'P1', detail });
  }
  if (counted.usersOver > 0) {
    const detail = `${counted.usersOver} users have more than ${limit} units`;
    breaches.push({ skuId, promise: 'limit', detail });
  }
  return breaches;
}

interface Counted {
  readonly held: bigint;
  readonly sold: bigint;
  readonly usersOver: number;
}

/** Chunk by chunk over the index alone, so that one statement never runs long. */
async function countHolds(
  connection: SnapshotReader,
  skuId: bigint,
  limit: number,
  settingsTime: Date,
): Promise<Counted> {
  const counted = { held: 0n, sold: 0n, usersOver: 0 };
  const { HELD, SOLD } = holdState;
  for (let after = '-1'; ; ) {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT COUNT(*) AS users, MAX(user_id) AS last_user, COALESCE(SUM(held), 0) AS held,
         COALESCE(SUM(sold), 0) AS sold, COALESCE(SUM(held + sold > ?), 0) AS users_over
       FROM (SELECT user_id, SUM(IF(state = ${HELD}, units, 0)) AS held,
               SUM(IF(state = ${SOLD}, units, 0)) AS sold
             FROM stock_holds FORCE INDEX (holds_by_buyer) WHERE sku_id = ? AND user_id > ?
             GROUP BY user_id ORDER BY user_id LIMIT ${chunkUsers}) AS buyers`,
      [limit, skuId, after],
    );
    const chunk = rows[0] as RowDataPacket;
    counted.held += BigInt(chunk.held);
    counted.sold += BigInt(chunk.sold);
    if (limit > 0 && Number(chunk.users_over) > 0) {
      const range = { skuId, after, until: String(chunk.last_user) };
      counted.usersOver += await countOver(connection, range, limit, settingsTime);
    }
    if (Number(chunk.users) < chunkUsers) return counted;
    after = String(chunk.last_user);
  }
}

/** A limit that was lowered makes no breach of what was bought before: only later holds count. */
async function countOver(
  connection: SnapshotReader,
  { skuId, after, until }: { skuId: bigint; after: string; until: string },
  limit: number,
  settingsTime: Date,
): Promise<number> {
  const [rows] = await connection.query<RowDataPacket[]>(
    `SELECT COUNT(*) AS users FROM (
       SELECT user_id FROM stock_holds FORCE INDEX (holds_by_buyer)
       WHERE sku_id = ? AND user_id > ? AND user_id <= ?
         AND state IN (${holdState.HELD}, ${holdState.SOLD})
       GROUP BY user_id HAVING SUM(units) > ? AND MAX(create_time) > ?) AS buyers`,
    [skuId, after, until, limit, settingsTime],
  );
  return Number(rows[0]?.users);
}
