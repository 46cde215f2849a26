import { randomUUID } from 'node:crypto';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { isLockWait, type Pool } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import {
  claimSweep,
  moveSweepCursor,
  raiseWatermark,
  readSweepPage,
  releaseSweep,
} from './ledger-sweep.ts';
import { orderIdTimeMs } from './order-clock.ts';
import type { OrderGateway, Resolution } from './order-gateway.ts';
import { releaseDead } from './release-dead.ts';
import type { ReleaseStock } from './release-stock.ts';
import type { StockMetrics } from './stock-metrics.ts';
import { UndecidedOrders } from './undecided-orders.ts';

const intervalMaxMs = 1_000;
/** New orders asked for in one call, and undecided ones beside them. */
const ordersMax = 2_500;
const undecidedAskedMax = 2_500;
/** Undecided orders remembered: those of all users of a dead database for a minute at the highest rate. */
const undecidedMax = 200_000;
/** Rows that one statement reads, whatever their states. */
const rowsMax = 20_000;
/** Orders whose holds cannot be released that are remembered, and how many of them are tried in one round. */
const setAsideMax = 1_000;
const setAsideTried = 20;
/** Calls in one round; a backlog goes on in the next. */
const pagesMax = 100;
const deadlineMs = 10_000;

export interface SweepHoldsOptions {
  readonly pool: Pool;
  readonly order: OrderGateway;
  readonly releaseStock: Pick<ReleaseStock, 'release'>;
  readonly settleAgeMs: number;
  readonly time: JudgedTime;
  readonly metrics: StockMetrics;
  readonly log: Log;
}

/**
 * Checks every hold once against the orders, when its order id is `settleAgeMs` old, and releases
 * those whose order does not exist. One process sweeps at a time, whichever comes first; the stored
 * cursor passes only what is decided, so the next one goes on where the last one stopped. Orders that
 * cannot be decided now, such as those of a database that is away, hold up no others. What happens
 * to an order later comes as an event, and recheck-holds.ts looks for events that were lost.
 */
export function startSweepHolds(options: SweepHoldsOptions): Loop {
  const { settleAgeMs, log } = options;
  const sweep = new Sweep(options);
  options.metrics.sweepLag.ms = () => sweep.lagMs();
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
  readonly #undecided = new UndecidedOrders(undecidedMax);
  /** Orders whose holds the ledger refuses to release; recheck-holds.ts knows them too. */
  readonly #setAside = new Set<bigint>();
  /** The cursor as this process stored it; another value means that somebody else swept meanwhile. */
  #stored: bigint | undefined;
  /** The cursor as it was last seen, whoever swept. */
  #seen: bigint | undefined;
  /** Up to where this process has asked, undecided orders left behind. */
  #position = 0n;
  /** The lag when it was known last; at the start it is not known yet. */
  #lag = { ms: 0, atMs: performance.now() };

  constructor(options: SweepHoldsOptions) {
    this.#options = options;
  }

  /**
   * How far the check is behind the age at which it is due. It grows while nobody sweeps, also while the
   * ledger or the time is not known.
   */
  lagMs(): number {
    const nowMs = this.#options.time.nowMs();
    const atMs = performance.now();
    // Nobody has swept a new ledger yet, and there is nothing that waits for it.
    if (!this.#seen || nowMs === undefined) return this.#lag.ms + atMs - this.#lag.atMs;
    const ms = Math.max(0, nowMs - this.#options.settleAgeMs - orderIdTimeMs(this.#seen));
    this.#lag = { ms, atMs };
    return ms;
  }

  /** One turn. The claim is given up behind it, so that a process which hangs holds nobody up for long. */
  async round(signal: AbortSignal): Promise<void> {
    const { pool } = this.#options;
    const { cursor, ours } = await claimSweep(pool, this.#owner, Deadline.after(deadlineMs));
    this.#seen = cursor;
    if (!ours) return;
    // Another process swept meanwhile: what is remembered here may be behind it.
    if (cursor !== this.#stored) {
      this.#stored = cursor;
      this.#position = cursor;
      this.#undecided.clear();
    }
    try {
      await this.#sweep(signal);
    } finally {
      await releaseSweep(pool, this.#owner, Deadline.after(deadlineMs));
    }
  }

  async #sweep(signal: AbortSignal): Promise<void> {
    const { pool, settleAgeMs: ageMs, time, metrics, log } = this.#options;
    const nowMs = time.nowMs();
    if (nowMs === undefined) throw new Refusal('DEPENDENCY_DOWN', 'The clocks disagree');
    if (failpoints.on) await failpoints.hit('stock.before_watermark');
    const raised = await raiseWatermark(pool, { nowMs, ageMs }, Deadline.after(deadlineMs));
    if (raised.repaired) {
      log.error(
        'the watermark was in the future, raised by a clock that was wrong: it is set back',
      );
      this.#stored = undefined;
      return;
    }
    const { orderId: watermark } = raised;
    if (failpoints.on) await failpoints.hit('stock.after_watermark', { watermark });
    for (let page = 0; page < pagesMax && !signal.aborted; page += 1) {
      const more = await this.#page(watermark);
      metrics.sweepUndecided.set(this.#undecided.count);
      if (!more) break;
    }
    await this.#release([...this.#setAside].slice(0, setAsideTried));
    metrics.holdsSetAside.set(this.#setAside.size);
  }

  /** Decides one page, and some of what is undecided; whether there is more to look at now. */
  async #page(watermark: bigint): Promise<boolean> {
    const { pool } = this.#options;
    const deadline = Deadline.after(deadlineMs);
    const again = this.#undecided.next(undecidedAskedMax);
    const range = { after: this.#position, until: watermark };
    const page = this.#undecided.full
      ? { orderIds: [], last: this.#position }
      : await readSweepPage(pool, range, { rowsMax, ordersMax }, deadline);
    const asked = [...again, ...page.orderIds];
    const resolutions = asked.length > 0 ? await this.#resolve(asked, deadline) : [];
    const of = (wanted: Resolution): bigint[] =>
      asked.filter((_, index) => resolutions[index] === wanted);
    const kept = await this.#release(of('DEAD'));
    this.#undecided.update(again, [...of('UNDECIDED'), ...kept]);
    if (page.last > this.#position) this.#position = page.last;

    const { oldest } = this.#undecided;
    const cursor = oldest === undefined ? this.#position : oldest - 1n;
    if (!(await this.#store(cursor))) return false;
    return this.#position < watermark && !this.#undecided.full;
  }

  /** Answers the orders that are to be asked for again; those that the ledger refuses are set aside. */
  async #release(orderIds: readonly bigint[]): Promise<ReadonlySet<bigint>> {
    const { again, failed } = await releaseDead(this.#options, orderIds);
    for (const orderId of orderIds) if (!failed.has(orderId)) this.#setAside.delete(orderId);
    for (const [orderId, err] of failed) {
      const isNew = !this.#setAside.delete(orderId);
      if (isNew) {
        const { log } = this.#options;
        log.error({ err, orderId: String(orderId) }, 'a hold cannot be released: it is set aside');
      }
      // Behind the others, so that all of them have their turn.
      if (this.#setAside.size < setAsideMax) this.#setAside.add(orderId);
    }
    return again;
  }

  /** Answers whether this process may go on. */
  async #store(cursor: bigint): Promise<boolean> {
    const from = this.#stored;
    if (from === undefined || cursor <= from) return from !== undefined;
    const move = { from, to: cursor };
    const deadline = Deadline.after(deadlineMs);
    const ours = await moveSweepCursor(this.#options.pool, this.#owner, move, deadline);
    this.#stored = ours ? cursor : undefined;
    if (ours) this.#seen = cursor;
    return ours;
  }

  async #resolve(orderIds: readonly bigint[], deadline: Deadline): Promise<Resolution[]> {
    if (failpoints.on) await failpoints.hit('stock.before_resolve', { orderIds });
    const resolutions = await this.#options.order.resolve(orderIds, deadline);
    if (failpoints.on) await failpoints.hit('stock.after_resolve', { orderIds });
    return resolutions;
  }
}

/** What says nothing about the orders: the ledger is away or busy, and the next round tries again. */
export function isPassing(error: unknown): boolean {
  return error instanceof Refusal || isLockWait(error);
}
