import { randomBytes } from 'node:crypto';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { WorkerLease } from './id-generator.ts';
import { workerCount } from './order-id.ts';
import { WorkerNumbers } from './worker-numbers.ts';

/** How far ids may run ahead of the time, in milliseconds: that many may be made in a burst. */
const aheadMsMax = 5_000;
/** Other processes may take the same free number first; with 64 of them that ends soon. */
const takeAttemptsMax = 8;
const defaultLeaseMs = 10_000;

export interface WorkerLeaseOptions {
  /** The order databases; the first 64 of them have numbers. */
  readonly pools: readonly Pool[];
  /** Told the databases' clocks by the name of the server that each is on. */
  readonly time: JudgedTime;
  readonly serverOf: (database: number) => string;
  readonly log: Log;
  /** How long a lease lasts without renewal; default 10 s, renewed after a quarter of it. */
  readonly leaseMs?: number;
}

export interface LeasedWorker {
  /** The lease now, or undefined while there is none. It may have run out: `validUntilMs` says. */
  current(): WorkerLease | undefined;
  /** Takes or renews now; for the start and for tests. */
  renew(): Promise<void>;
  /** Gives the number back; `usedMs` is the greatest time inside any id made under it. */
  stop(usedMs: number): Promise<void>;
}

/**
 * Keeps one of the 64 worker numbers leased to this process, or takes a new one when it is lost. A
 * number's database that is away costs its number when half of the lease has passed: another database
 * gives another one, before the old one has run out.
 */
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
  readonly #homes: readonly WorkerNumbers[];
  readonly #time: JudgedTime;
  readonly #serverOf: (database: number) => string;
  readonly #log: Log;
  readonly #leaseMs: number;
  readonly #owner = randomBytes(16).toString('hex');
  #renewing: Promise<void> = Promise.resolve();

  constructor({ pools, time, serverOf, log, leaseMs = defaultLeaseMs }: WorkerLeaseOptions) {
    const places = Math.min(pools.length, workerCount);
    this.#homes = pools
      .slice(0, places)
      .map((pool, place) => new WorkerNumbers(pool, place, places));
    this.#time = time;
    this.#serverOf = serverOf;
    this.#log = log;
    this.#leaseMs = leaseMs;
  }

  /** One after the other: two at once would take two numbers, or find each other's taken. */
  renew(): Promise<void> {
    this.#renewing = this.#renewing.catch(() => undefined).then(() => this.#renewOnce());
    return this.#renewing;
  }

  async #renewOnce(): Promise<void> {
    const { lease } = this;
    if (lease === undefined) return await this.#take();
    let silent: WorkerNumbers | undefined;
    try {
      if (await this.#extend(lease)) return;
      this.#log.warn({ worker: lease.workerId }, 'worker number lost');
      this.lease = undefined;
    } catch (error) {
      // The lease is good for a while yet, and so its database has another chance.
      if (lease.validUntilMs - performance.now() > this.#leaseMs / 2) throw error;
      this.#log.warn({ err: error, worker: lease.workerId }, 'worker number cannot be renewed');
      silent = this.#homeOf(lease);
    }
    await this.#take(silent);
  }

  async giveBack(usedMs: number): Promise<void> {
    const { lease } = this;
    if (lease === undefined) return;
    this.lease = undefined;
    const highWaterMs = Math.max(usedMs, lease.floorMs);
    await this.#homeOf(lease).giveBack(lease.workerId, this.#owner, highWaterMs);
  }

  #homeOf({ workerId }: WorkerLease): WorkerNumbers {
    return this.#homes[workerId % this.#homes.length] as WorkerNumbers;
  }

  async #extend(lease: WorkerLease): Promise<boolean> {
    const home = this.#homeOf(lease);
    const nowMs = await this.#nowMs(home);
    const sentAtMs = performance.now();
    // Never lowered, not even after the time itself went back: ids up to it may have been made.
    const highWaterMs = Math.max(lease.highWaterMs, this.#highWaterFrom(nowMs));
    const stored = { owner: this.#owner, leaseMs: this.#leaseMs, highWaterMs };
    const extended = await home.extend(lease.workerId, stored, nowMs);
    if (extended) {
      this.lease = { ...lease, validUntilMs: sentAtMs + this.#leaseMs, highWaterMs };
    }
    return extended;
  }

  /**
   * A number of whichever database is there.
   *
   * @param silent one that did not answer just now, and is asked last
   * @throws what the last database failed with
   */
  async #take(silent?: WorkerNumbers): Promise<void> {
    let failure: unknown = new Error('All worker numbers are leased');
    const start = Math.floor(Math.random() * this.#homes.length);
    const turns = [...this.#homes.slice(start), ...this.#homes.slice(0, start)];
    turns.sort((a, b) => Number(a === silent) - Number(b === silent));
    for (const home of turns) {
      try {
        if (await this.#takeFrom(home)) return;
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }

  async #takeFrom(home: WorkerNumbers): Promise<boolean> {
    const nowMs = await this.#nowMs(home);
    for (let attempt = 0; attempt < takeAttemptsMax; attempt += 1) {
      const free = await home.free(nowMs);
      if (free === undefined) return false;
      if (await this.#isLeasedElsewhere(home, free.workerId, nowMs)) continue;
      const sentAtMs = performance.now();
      const highWaterMs = this.#highWaterFrom(nowMs);
      const stored = { owner: this.#owner, leaseMs: this.#leaseMs, highWaterMs };
      if (!(await home.take(free, stored))) continue;
      this.lease = {
        workerId: free.workerId,
        validUntilMs: sentAtMs + this.#leaseMs,
        floorMs: free.highWaterMs,
        highWaterMs,
      };
      this.#log.info({ worker: free.workerId }, 'worker number leased');
      return true;
    }
    return false;
  }

  /** A process that was started with another number of databases may have it. */
  async #isLeasedElsewhere(home: WorkerNumbers, workerId: number, nowMs: number): Promise<boolean> {
    const others = this.#homes.filter((other) => other !== home);
    const leased = await Promise.all(
      others.map((other) => other.isLeased(workerId, nowMs).catch(() => false)),
    );
    return leased.includes(true);
  }

  #highWaterFrom(nowMs: number): number {
    return nowMs + this.#leaseMs + aheadMsMax;
  }

  /** The time that the clocks agree on; ids of another time would be dead at birth, or outlive their sweep. */
  async #nowMs(home: WorkerNumbers): Promise<number> {
    this.#time.observe(this.#serverOf(this.#homes.indexOf(home)), await home.nowMs());
    const nowMs = this.#time.nowMs();
    if (nowMs === undefined) throw new Error("This host's clock and MySQL's disagree");
    return nowMs;
  }
}
