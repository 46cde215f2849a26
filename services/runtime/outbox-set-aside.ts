import type { RowDataPacket } from 'mysql2/promise';
import { OutboxBatch, type OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import { Deadline } from './deadline.ts';
import { type Pool, type PoolConnection, transaction } from './mysql.ts';
import { type OutboxRow, takeRowsOut } from './outbox-rows.ts';

// The rows of `outbox_set_aside`: events that could not be published, apart from those that can.

const databaseMs = 3_000;
/** Far below what a statement may carry, whatever the server is set to. */
const payloadBytesMax = 4 * 1024 * 1024;
const reasonLengthMax = 500;
/** Rows that are tried again at once. */
const triesMax = 8;
/** How long a relay that died keeps what it was trying. */
const claimMs = 15_000;
const againFirstMs = 1_000;
const againLastMs = 30_000;

/** An event that could not be published, with the row it was in. */
export interface Unpublished {
  readonly row: OutboxRow;
  readonly message: OutboxMessage;
  /** Why Kafka will never take it; undefined if it may take it later. */
  readonly refusal: string | undefined;
}

/** A row that cannot be read. */
export interface Unreadable {
  readonly row: OutboxRow;
  readonly reason: string;
}

/** A row that is tried again, claimed by moving its time on. */
export interface WaitingRow extends OutboxRow {
  readonly outboxId: string;
  /** This one included. */
  readonly attempts: number;
}

/** Keeps rows that cannot be read, and takes them out of the outbox. @throws Error if nothing was changed */
export async function setRowsAside(
  pool: Pool,
  owner: string,
  unreadable: readonly Unreadable[],
): Promise<void> {
  if (unreadable.length === 0) return;
  await transaction(pool, { deadline: Deadline.after(databaseMs) }, async (connection) => {
    for (const { row, reason } of unreadable) {
      await insert(connection, {
        outboxId: row.id,
        row,
        payload: row.payload,
        reason,
        attempts: 0,
      });
    }
    await takeRowsOut(connection, { owner, rows: unreadable.map(({ row }) => row) });
  });
}

/** Keeps events that could not be published, and takes their rows out of the outbox. @throws as `setRowsAside` */
export async function setEventsAside(
  pool: Pool,
  owner: string,
  events: readonly Unpublished[],
): Promise<void> {
  if (events.length === 0) return;
  await transaction(pool, { deadline: Deadline.after(databaseMs) }, async (connection) => {
    await insertEvents(connection, events, 0);
    await takeRowsOut(connection, { owner, rows: [...new Set(events.map(({ row }) => row))] });
  });
}

/** Takes rows whose time has come, the longest due first; also a time that only a wrong clock can have written. */
export async function claimWaiting(pool: Pool): Promise<WaitingRow[]> {
  const deadline = Deadline.after(databaseMs);
  return await transaction(pool, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT id, outbox_id, payload, create_time, attempts FROM outbox_set_aside
       WHERE next_time <= NOW(3) OR next_time > NOW(3) + INTERVAL ${2 * againLastMs * 1_000} MICROSECOND
       ORDER BY next_time LIMIT ${triesMax} FOR UPDATE SKIP LOCKED`,
    );
    if (rows.length === 0) return [];
    await connection.query(
      `UPDATE outbox_set_aside SET attempts = attempts + 1,
         next_time = NOW(3) + INTERVAL ${claimMs * 1_000} MICROSECOND WHERE id IN (?)`,
      [rows.map((row) => row.id)],
    );
    return rows.map((row) => ({
      id: row.id,
      outboxId: row.outbox_id,
      payload: row.payload,
      createTime: row.create_time,
      attempts: row.attempts + 1,
    }));
  });
}

/** What became of a row that was tried again. */
export type TriedAgain =
  /** These of its events are left; none if all are published. */
  | { readonly kind: 'tried'; readonly left: readonly Unpublished[] }
  /** Nothing changed: it waits for its next time. */
  | { readonly kind: 'waits' }
  | { readonly kind: 'unreadable'; readonly reason: string };

/** Stores what became of a row that was tried again; nothing if somebody else has it by now. */
export async function settleWaiting(
  pool: Pool,
  row: WaitingRow,
  outcome: TriedAgain,
): Promise<void> {
  await transaction(pool, { deadline: Deadline.after(databaseMs) }, async (connection) => {
    const [mine] = await connection.query<RowDataPacket[]>(
      'SELECT id FROM outbox_set_aside WHERE id = ? AND attempts = ? FOR UPDATE',
      [row.id, row.attempts],
    );
    if (mine.length === 0) return;
    if (outcome.kind === 'tried') {
      await connection.query('DELETE FROM outbox_set_aside WHERE id = ?', [row.id]);
      await insertEvents(connection, outcome.left, row.attempts);
    } else if (outcome.kind === 'waits') {
      const sql = `UPDATE outbox_set_aside SET next_time = ${nextTime(row.attempts)} WHERE id = ?`;
      await connection.query(sql, [row.id]);
    } else {
      const sql = 'UPDATE outbox_set_aside SET next_time = NULL, reason = ? WHERE id = ?';
      await connection.query(sql, [shorten(outcome.reason), row.id]);
    }
  });
}

/** Those that are refused each have a row, with its reason; those that wait share rows. */
async function insertEvents(
  connection: PoolConnection,
  events: readonly Unpublished[],
  attempts: number,
): Promise<void> {
  for (const { row, message, refusal } of events) {
    if (refusal === undefined) continue;
    const [outboxId, payload] = [outboxIdOf(row), payloadOf([message])];
    await insert(connection, { outboxId, row, payload, reason: refusal, attempts });
  }
  const waiting = events.filter(({ refusal }) => refusal === undefined);
  for (const group of inPayloads(waiting)) {
    const { row } = group[0] as Unpublished;
    const payload = payloadOf(group.map(({ message }) => message));
    const reason = 'its partition of the topic takes nothing now; it is tried again';
    const next = nextTime(attempts);
    await insert(connection, { outboxId: outboxIdOf(row), row, payload, reason, attempts, next });
  }
}

interface NewRow {
  readonly outboxId: string;
  readonly row: OutboxRow;
  readonly payload: Buffer;
  readonly reason: string;
  readonly attempts: number;
  /** When it is tried again, as SQL; absent: never by itself. */
  readonly next?: string;
}

async function insert(
  connection: PoolConnection,
  { outboxId, row, payload, reason, attempts, next = 'NULL' }: NewRow,
): Promise<void> {
  await connection.query(
    `INSERT INTO outbox_set_aside
       (outbox_id, payload, create_time, reason, attempts, next_time, set_aside_time)
     VALUES (?, ?, ?, ?, ?, ${next}, NOW(3))`,
    [outboxId, payload, row.createTime, shorten(reason), attempts],
  );
}

function nextTime(attempts: number): string {
  const againMs = Math.min(againFirstMs * 2 ** Math.min(attempts, 10), againLastMs);
  return `NOW(3) + INTERVAL ${againMs * 1_000} MICROSECOND`;
}

function inPayloads(events: readonly Unpublished[]): Unpublished[][] {
  const groups: Unpublished[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const event of events) {
    const own = event.message.value.length;
    if (bytes + own > payloadBytesMax) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)?.push(event);
    bytes += own;
  }
  return groups;
}

/** A row that was set aside before remembers where it was first. */
function outboxIdOf(row: OutboxRow): string {
  return (row as Partial<WaitingRow>).outboxId ?? row.id;
}

function payloadOf(messages: OutboxMessage[]): Buffer {
  return Buffer.from(OutboxBatch.encode({ messages }).finish());
}

function shorten(reason: string): string {
  return reason.slice(0, reasonLengthMax);
}
