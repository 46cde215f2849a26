import { randomUUID } from 'node:crypto';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { lockWaitTimeoutErrno, mysqlErrno, type Pool } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import {
  claimSweep,
  heldOrders,
  moveSweepCursor,
  raiseWatermark,
  releaseSweep,
} from './ledger-sweep.ts';
import { orderIdTimeMs } from './order-clock.ts';
import type { OrderGateway, Resolution } from './order-gateway.ts';
import type { ReleaseStock } from './release-stock.ts';
import type { StockMetrics } from './stock-metrics.ts';

const intervalMaxMs = 1_000;
/** Orders asked for in one call, those still undecided among them. */
const ordersMax = 5_000;
/** Undecided orders remembered at once; with more of them the sweep waits for the order service. */
const undecidedMax = 2_500;
/** Orders released in one transaction. */
const releaseMax = 500;
/** Calls in one round; a backlog goes on in the next. */
const pagesMax = 100;
const deadlineMs = 10_000;

export interface SweepHoldsOptions {
  readonly pool: Pool;
  readonly order: OrderGateway;
  readonly releaseStock: ReleaseStock;
  readonly settleAgeMs: number;
  readonly metrics: StockMetrics;
  readonly log: Log;
}

/**
 * Checks every hold once against the orders, when its order id is `settleAgeMs` old, and releases
 * those whose order does not exist. One process sweeps at a time, whichever comes first; the stored
 * cursor passes only what is decided, so the next one goes on where the last one stopped. What happens
 * to an order later comes as an event, and recheck-holds.ts looks for events that were lost.
 */
export function startSweepHolds(options: SweepHoldsOptions): Loop {
  const { settleAgeMs, log } = options;
  const sweep = new Sweep(options);
  return startLoop({
    name: 'sweep-holds',
    intervalMs: Math.min(intervalMaxMs, settleAgeMs / 4),
    log,
    run: (signal) => sweep.round(signal),
  });
}

class Sweep {
  readonly #options: SweepHoldsOptions;
  readonly #owner = randomUUID();
  /** The cursor as this process stored it; another value means that somebody else swept meanwhile. */
  #stored: bigint | undefined;
  /** Up to where this process has asked, undecided orders left behind. */
  #position = 0n;
  #undecided: bigint[] = [];

  constructor(options: SweepHoldsOptions) {
    this.#options = options;
  }

  /** One turn. The claim is given up behind it, so that a process which hangs holds nobody up for long. */
  async round(signal: AbortSignal): Promise<void> {
    const { pool } = this.#options;
    const cursor = await claimSweep(pool, this.#owner, Deadline.after(deadlineMs));
    if (cursor === undefined) return;
    // Another process swept meanwhile: what is remembered here may be behind it.
    if (cursor !== this.#stored) {
      this.#stored = cursor;
      this.#position = cursor;
      this.#undecided = [];
    }
    try {
      await this.#sweep(signal);
    } finally {
      await releaseSweep(pool, this.#owner, Deadline.after(deadlineMs));
    }
  }

  async #sweep(signal: AbortSignal): Promise<void> {
    const { pool, settleAgeMs, metrics } = this.#options;
    if (failpoints.on) await failpoints.hit('stock.before_watermark');
    const watermark = await raiseWatermark(pool, settleAgeMs, Deadline.after(deadlineMs));
    if (failpoints.on) await failpoints.hit('stock.after_watermark', { watermark });
    for (let page = 0; page < pagesMax && !signal.aborted; page += 1) {
      const more = await this.#page(watermark);
      const behindMs = orderIdTimeMs(watermark) - orderIdTimeMs(this.#stored ?? 0n);
      metrics.sweepLagSeconds.set(Math.max(0, behindMs) / 1_000);
      metrics.sweepUndecided.set(this.#undecided.length);
      if (!more) return;
    }
  }

  /** Decides one page; whether there is more to ask for now. */
  async #page(watermark: bigint): Promise<boolean> {
    const { pool } = this.#options;
    const deadline = Deadline.after(deadlineMs);
    const max = this.#undecided.length >= undecidedMax ? 0 : ordersMax - this.#undecided.length;
    const range = { after: this.#position, until: watermark, max };
    const fresh = max > 0 ? await heldOrders(pool, range, deadline) : [];
    const asked = [...this.#undecided, ...fresh];
    const resolutions = asked.length > 0 ? await this.#resolve(asked, deadline) : [];
    const kept = await this.#release(asked.filter((_, index) => resolutions[index] === 'DEAD'));
    this.#undecided = asked.filter((orderId, index) => {
      return resolutions[index] === 'UNDECIDED' || kept.has(orderId);
    });
    const full = max > 0 && fresh.length === max;
    if (max > 0) this.#position = full ? (fresh.at(-1) as bigint) : watermark;

    const oldest = this.#undecided[0];
    const cursor = oldest === undefined ? this.#position : oldest - 1n;
    if (this.#stored === undefined || cursor > this.#stored) {
      const ours = await moveSweepCursor(pool, this.#owner, cursor, Deadline.after(deadlineMs));
      if (!ours) {
        this.#forget();
        return false;
      }
      this.#stored = cursor;
    }
    return full;
  }

  async #resolve(orderIds: readonly bigint[], deadline: Deadline): Promise<Resolution[]> {
    if (failpoints.on) await failpoints.hit('stock.before_resolve', { orderIds });
    const resolutions = await this.#options.order.resolve(orderIds, deadline);
    if (failpoints.on) await failpoints.hit('stock.after_resolve', { orderIds });
    return resolutions;
  }

  /** Answers the orders whose holds stay, for one that cannot be released must not keep the others. */
  async #release(orderIds: readonly bigint[]): Promise<ReadonlySet<bigint>> {
    const kept = new Set<bigint>();
    for (let from = 0; from < orderIds.length; from += releaseMax) {
      const chunk = orderIds.slice(from, from + releaseMax);
      try {
        await this.#releaseChunk(chunk);
      } catch (error) {
        if (isPassing(error)) throw error;
        for (const orderId of chunk) if (!(await this.#isReleased(orderId))) kept.add(orderId);
      }
    }
    return kept;
  }

  async #isReleased(orderId: bigint): Promise<boolean> {
    try {
      await this.#releaseChunk([orderId]);
      return true;
    } catch (error) {
      if (isPassing(error)) throw error;
      const again = this.#undecided.includes(orderId);
      const { log } = this.#options;
      if (!again) log.error({ err: error, orderId: String(orderId) }, 'a hold cannot be released');
      return false;
    }
  }

  async #releaseChunk(orderIds: readonly bigint[]): Promise<void> {
    const { releaseStock, log } = this.#options;
    const moves = orderIds.map((orderId) => {
      return { orderId, move: 'RELEASE', fenceSkuIds: [], userId: 0n, requestId: '' } as const;
    });
    const released = await releaseStock.release(
      moves,
      { forgetRequests: true },
      Deadline.after(deadlineMs),
    );
    const count = released.filter((units) => units > 0n).length;
    if (count > 0) log.info({ orders: count }, 'holds without an order were released');
  }

  #forget(): void {
    this.#stored = undefined;
    this.#undecided = [];
  }
}

/** What says nothing about the orders: the ledger is away or busy, and the next round tries again. */
export function isPassing(error: unknown): boolean {
  return error instanceof Refusal || mysqlErrno(error) === lockWaitTimeoutErrno;
}
