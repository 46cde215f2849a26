import { randomUUID } from 'node:crypto';
import type { ResultSetHeader, RowDataPacket } from 'mysql2';
import { Deadline } from '../runtime/deadline.ts';
import { type Pool, query, transaction } from '../runtime/mysql.ts';

const databaseMs = 3_000;
/** `mail_due` is counted up to here, so that looking stays cheap however long a server was away. */
const dueMax = 100_000;
const failureLengthMax = 200;
/** Longer than any claim or retry: a time further ahead was written by a clock that has been set back since. */
const waitSecondsMax = 420;
const isDue = `(next_time <= NOW(3) OR next_time > NOW(3) + INTERVAL ${waitSecondsMax} SECOND)`;

/** A mail that this sender has for the time of its claim. */
export interface ClaimedMail {
  readonly orderId: bigint;
  /** An encoded OrderEvent. */
  readonly payload: Buffer;
  /** This one included. */
  readonly attempts: number;
  /** Since the order was paid. */
  readonly ageSeconds: number;
  readonly owner: string;
}

/** The mails to send, as rows: what is due is claimed by a committed update, and sent outside of it. */
export class MailQueue {
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Claims the mails that are due longest; who dies with a claim leaves them due after its time. */
  async claim(mailsMax: number, claimMs: number): Promise<ClaimedMail[]> {
    const owner = randomUUID();
    const deadline = Deadline.after(databaseMs);
    const rows = await transaction(this.#pool, { deadline }, async (connection) => {
      const [due] = await connection.query<RowDataPacket[]>(
        `SELECT order_id, payload, attempts, TIMESTAMPDIFF(SECOND, create_time, NOW(3)) AS age
         FROM confirmation_mails
         WHERE ${isDue} ORDER BY next_time LIMIT ? FOR UPDATE SKIP LOCKED`,
        [mailsMax],
      );
      if (due.length === 0) return due;
      await connection.query(
        `UPDATE confirmation_mails SET owner = ?, attempts = attempts + 1,
           next_time = NOW(3) + INTERVAL ? MICROSECOND WHERE order_id IN (?)`,
        [owner, claimMs * 1_000, due.map((row) => row.order_id)],
      );
      return due;
    });
    return rows.map((row) => ({
      orderId: BigInt(row.order_id),
      payload: row.payload,
      attempts: row.attempts + 1,
      ageSeconds: Number(row.age),
      owner,
    }));
  }

  async sent(mail: ClaimedMail): Promise<void> {
    await this.#update(mail, "sent_time = NOW(3), next_time = NULL, failure = ''", []);
  }

  /** Tries again after a while. */
  async retry(mail: ClaimedMail, afterMs: number, failure: string): Promise<void> {
    const set = 'next_time = NOW(3) + INTERVAL ? MICROSECOND, failure = ?';
    await this.#update(mail, set, [Math.round(afterMs) * 1_000, shorten(failure)]);
  }

  /** A claim that was not used does not count as an attempt. */
  async giveBack(mail: ClaimedMail, afterMs: number): Promise<void> {
    const set = 'next_time = NOW(3) + INTERVAL ? MICROSECOND, attempts = attempts - 1';
    await this.#update(mail, set, [Math.round(afterMs) * 1_000]);
  }

  /** Keeps the row with its failure for whoever looks, and never tries again. */
  async giveUp(mail: ClaimedMail, failure: string): Promise<void> {
    await this.#update(mail, 'next_time = NULL, failure = ?', [shorten(failure)]);
  }

  async countDue(): Promise<number> {
    const sql = `SELECT COUNT(*) AS due FROM
      (SELECT 1 FROM confirmation_mails WHERE ${isDue} LIMIT ${dueMax}) AS waiting`;
    const deadline = Deadline.after(databaseMs);
    const [row] = await query<RowDataPacket[]>(this.#pool, sql, [], { deadline });
    return Number(row?.due);
  }

  /** Writes only while the claim stands: whoever claimed the mail since then decides about it. */
  async #update({ orderId, owner }: ClaimedMail, set: string, params: unknown[]): Promise<void> {
    await query<ResultSetHeader>(
      this.#pool,
      `UPDATE confirmation_mails SET ${set}, owner = NULL WHERE order_id = ? AND owner = ?`,
      [...params, orderId, owner],
      { deadline: Deadline.after(databaseMs) },
    );
  }
}

function shorten(failure: string): string {
  return failure.slice(0, failureLengthMax);
}
