import { randomBytes } from 'node:crypto';
import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { hostClock, type IdClock, type WorkerLease } from './id-generator.ts';

/** A clock farther off MySQL's is refused: its ids would be fenced at birth, or outlive their sweep. */
const clockSkewMaxMs = 5_000;
const statementDeadlineMs = 2_000;
/** Other processes may take the same free number first; with 64 of them that ends soon. */
const takeAttemptsMax = 8;
const defaultLeaseMs = 10_000;

export interface WorkerLeaseOptions {
  /** Order database 0, which holds the leases. */
  readonly pool: Pool;
  readonly log: Log;
  /** How long a lease lasts without renewal; default 10 s, renewed after a quarter of it. */
  readonly leaseMs?: number;
  /** How far the clock may be off MySQL's, and how far ahead ids may run; default 5 s. */
  readonly skewMaxMs?: number;
  readonly clock?: IdClock;
}

export interface LeasedWorker {
  /** The lease now, or undefined while there is none. It may have run out: `validUntilMs` says. */
  current(): WorkerLease | undefined;
  /** Takes or renews now; for the start and for tests. */
  renew(): Promise<void>;
  /** Gives the number back; `usedMs` is the greatest time inside any id made under it. */
  stop(usedMs: number): Promise<void>;
}

/** Keeps one of the 64 worker numbers leased to this process, or takes a new one when it is lost. */
export async function startWorkerLease(options: WorkerLeaseOptions): Promise<LeasedWorker> {
  const { log, leaseMs = defaultLeaseMs } = options;
  const holder = new LeaseHolder(options);
  await holder.renew().catch((error) => log.warn({ err: error }, 'no worker number yet'));
  const loop: Loop = startLoop({
    name: 'worker-lease',
    intervalMs: leaseMs / 4,
    run: () => holder.renew(),
    log,
  });
  return {
    current: () => holder.lease,
    renew: () => holder.renew(),
    async stop(usedMs) {
      await loop.stop();
      await holder.giveBack(usedMs);
    },
  };
}

class LeaseHolder {
  lease: WorkerLease | undefined;
  readonly #pool: Pool;
  readonly #log: Log;
  readonly #leaseMs: number;
  readonly #skewMaxMs: number;
  readonly #clock: IdClock;
  readonly #owner = randomBytes(16).toString('hex');
  #renewing: Promise<void> = Promise.resolve();

  constructor({ pool, log, leaseMs, skewMaxMs, clock }: WorkerLeaseOptions) {
    this.#pool = pool;
    this.#log = log;
    this.#leaseMs = leaseMs ?? defaultLeaseMs;
    this.#skewMaxMs = skewMaxMs ?? clockSkewMaxMs;
    this.#clock = clock ?? hostClock;
  }

  /** One after the other: two at once would take two numbers, or find each other's taken. */
  renew(): Promise<void> {
    this.#renewing = this.#renewing.catch(() => undefined).then(() => this.#renewOnce());
    return this.#renewing;
  }

  async #renewOnce(): Promise<void> {
    const nowMs = await this.#mysqlTimeMs();
    const offMs = Math.round(this.#clock.wallMs() - nowMs);
    if (Math.abs(offMs) > this.#skewMaxMs) {
      this.lease = undefined;
      throw new Error(
        `The clock is ${offMs} ms off MySQL's; at most ${this.#skewMaxMs} is allowed`,
      );
    }
    if (this.lease !== undefined) {
      if (await this.#extend(this.lease, nowMs)) return;
      this.#log.warn({ worker: this.lease.workerId }, 'worker number lost');
      this.lease = undefined;
    }
    await this.#take(nowMs);
  }

  async giveBack(usedMs: number): Promise<void> {
    const lease = this.lease;
    if (lease === undefined) return;
    this.lease = undefined;
    const highWaterMs = Math.max(usedMs, lease.floorMs);
    await this.#update(
      `UPDATE workers SET owner = NULL, leased_until = UTC_TIMESTAMP(3), high_water_ms = LEAST(high_water_ms, ?)
       WHERE worker_id = ? AND owner = ?`,
      [highWaterMs, lease.workerId, this.#owner],
    );
  }

  async #extend(lease: WorkerLease, nowMs: number): Promise<boolean> {
    const sentAtMs = this.#clock.monotonicMs();
    // Never lowered, not even after MySQL's own clock went back: ids up to it may have been made.
    const highWaterMs = Math.max(lease.highWaterMs, this.#highWaterFrom(nowMs));
    const extended = await this.#update(
      `UPDATE workers SET leased_until = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND, high_water_ms = ?
       WHERE worker_id = ? AND owner = ? AND leased_until > UTC_TIMESTAMP(3)`,
      [this.#leaseMs * 1_000, highWaterMs, lease.workerId, this.#owner],
    );
    if (extended) {
      this.lease = { ...lease, validUntilMs: sentAtMs + this.#leaseMs, highWaterMs };
    }
    return extended;
  }

  async #take(nowMs: number): Promise<void> {
    for (let attempt = 0; attempt < takeAttemptsMax; attempt += 1) {
      const free = await this.#freeWorker(nowMs);
      if (free === undefined) throw new Error('All worker numbers are leased');
      const sentAtMs = this.#clock.monotonicMs();
      const highWaterMs = this.#highWaterFrom(nowMs);
      const taken = await this.#update(
        `UPDATE workers SET owner = ?, leased_until = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND, high_water_ms = ?
         WHERE worker_id = ? AND high_water_ms = ? AND leased_until <= UTC_TIMESTAMP(3)`,
        [this.#owner, this.#leaseMs * 1_000, highWaterMs, free.workerId, free.highWaterMs],
      );
      if (!taken) continue;
      this.lease = {
        workerId: free.workerId,
        validUntilMs: sentAtMs + this.#leaseMs,
        floorMs: free.highWaterMs,
        highWaterMs,
      };
      this.#log.info({ worker: free.workerId }, 'worker number leased');
      return;
    }
    throw new Error('Others took every free worker number first');
  }

  /** A number whose lease is over and whose ids all lie in the past. */
  async #freeWorker(nowMs: number) {
    const rows = await this.#query<RowDataPacket[]>(
      `SELECT worker_id, high_water_ms FROM workers
       WHERE leased_until <= UTC_TIMESTAMP(3) AND high_water_ms < ? ORDER BY high_water_ms, RAND() LIMIT 1`,
      [nowMs],
    );
    const row = rows[0];
    if (row === undefined) return undefined;
    return { workerId: Number(row.worker_id), highWaterMs: Number(row.high_water_ms) };
  }

  #highWaterFrom(nowMs: number): number {
    return nowMs + this.#leaseMs + this.#skewMaxMs;
  }

  async #mysqlTimeMs(): Promise<number> {
    const rows = await this.#query<RowDataPacket[]>(
      'SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED) AS now_ms',
      [],
    );
    return Number(rows[0]?.now_ms);
  }

  async #update(sql: string, params: readonly unknown[]): Promise<boolean> {
    return (await this.#query<ResultSetHeader>(sql, params)).affectedRows === 1;
  }

  #query<Result>(sql: string, params: readonly unknown[]): Promise<Result> {
    const deadline = Deadline.after(statementDeadlineMs);
    return query<Result>(this.#pool, sql, params, { deadline });
  }
}
