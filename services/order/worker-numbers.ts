import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import { type Pool, query } from '../runtime/mysql.ts';

/** Several statements that get no answer, one after the other, must end well before a lease of 10 s does. */
const statementDeadlineMs = 1_000;

/** Longer than any lease, in seconds. */
const leaseSecondsMax = 120;
const isOver = `(leased_until <= UTC_TIMESTAMP(3)
  OR leased_until > UTC_TIMESTAMP(3) + INTERVAL ${leaseSecondsMax} SECOND)`;

/** A number that nobody has leased, and the greatest time inside any id that was made under it. */
export interface FreeNumber {
  readonly workerId: number;
  readonly highWaterMs: number;
}

/** What is to be stored of a lease. */
export interface NewLease {
  readonly owner: string;
  readonly leaseMs: number;
  readonly highWaterMs: number;
}

/**
 * The worker numbers of one order database. Each number has one database that decides about it, by its
 * place among them, so that leases go on while any of the databases is there.
 */
export class WorkerNumbers {
  readonly #pool: Pool;
  readonly #place: number;
  readonly #places: number;

  /** @param place the database's number among the `places` that have numbers */
  constructor(pool: Pool, place: number, places: number) {
    this.#pool = pool;
    this.#place = place;
    this.#places = places;
  }

  /** The server's time in ms since 1970. */
  async nowMs(): Promise<number> {
    const rows = await this.#query<RowDataPacket[]>(
      'SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED) AS now_ms',
      [],
    );
    return Number(rows[0]?.now_ms);
  }

  /**
   * A number whose lease is over and whose ids all lie before `nowMs`. The ids alone keep two holders apart; a lease that
   * ends later than any can was stored while MySQL's clock was ahead, and is over.
   */
  async free(nowMs: number): Promise<FreeNumber | undefined> {
    const rows = await this.#query<RowDataPacket[]>(
      `SELECT worker_id, high_water_ms FROM workers
       WHERE worker_id % ? = ? AND ${isOver} AND high_water_ms < ?
       ORDER BY high_water_ms, RAND() LIMIT 1`,
      [this.#places, this.#place, nowMs],
    );
    const row = rows[0];
    if (row === undefined) return undefined;
    return { workerId: Number(row.worker_id), highWaterMs: Number(row.high_water_ms) };
  }

  /** Whether somebody has a lease of a number here at `nowMs`, as before there were more or fewer databases. */
  async isLeased(workerId: number, nowMs: number): Promise<boolean> {
    const rows = await this.#query<RowDataPacket[]>(
      `SELECT 1 FROM workers WHERE worker_id = ? AND owner IS NOT NULL
         AND (leased_until > UTC_TIMESTAMP(3) OR high_water_ms >= ?)`,
      [workerId, nowMs],
    );
    return rows.length > 0;
  }

  /** @returns false if another process took the number first */
  async take(
    { workerId, highWaterMs: seenMs }: FreeNumber,
    { owner, leaseMs, highWaterMs }: NewLease,
  ): Promise<boolean> {
    return await this.#update(
      `UPDATE workers SET owner = ?, leased_until = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND, high_water_ms = ?
       WHERE worker_id = ? AND high_water_ms = ? AND ${isOver}`,
      [owner, leaseMs * 1_000, highWaterMs, workerId, seenMs],
    );
  }

  /**
   * A lease that is over by MySQL's clock alone, which has stepped, is still its holder's: nobody may have taken the number
   * while ids under it may lie behind `nowMs`.
   *
   * @returns false if the lease is over or another's
   */
  async extend(
    workerId: number,
    { owner, leaseMs, highWaterMs }: NewLease,
    nowMs: number,
  ): Promise<boolean> {
    const isHeld =
      'worker_id = ? AND owner = ? AND (leased_until > UTC_TIMESTAMP(3) OR high_water_ms >= ?)';
    const extended = await this.#update(
      `UPDATE workers SET leased_until = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND, high_water_ms = ?
       WHERE ${isHeld}`,
      [leaseMs * 1_000, highWaterMs, workerId, owner, nowMs],
    );
    if (extended) return true;
    // A second renewal within one millisecond changes nothing, and so counts no row.
    const sql = `SELECT 1 FROM workers WHERE ${isHeld}`;
    return (await this.#query<RowDataPacket[]>(sql, [workerId, owner, nowMs])).length > 0;
  }

  /** @param highWaterMs the greatest time inside any id that was made under the lease */
  async giveBack(workerId: number, owner: string, highWaterMs: number): Promise<void> {
    await this.#update(
      `UPDATE workers SET owner = NULL, leased_until = UTC_TIMESTAMP(3), high_water_ms = LEAST(high_water_ms, ?)
       WHERE worker_id = ? AND owner = ?`,
      [highWaterMs, workerId, owner],
    );
  }

  async #update(sql: string, params: readonly unknown[]): Promise<boolean> {
    return (await this.#query<ResultSetHeader>(sql, params)).affectedRows === 1;
  }

  #query<Result>(sql: string, params: readonly unknown[]): Promise<Result> {
    const deadline = Deadline.after(statementDeadlineMs);
    return query<Result>(this.#pool, sql, params, { deadline });
  }
}
