import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import type { OrderVersion } from '../../gen/sluice/event/v1/order_state_service.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { EventPacer } from '../runtime/event-pacer.ts';
import { HandleApart } from '../runtime/handle-apart.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import { addCursors, type CatchUpTurn, claimTurn, storeTurn } from './catch-up-cursors.ts';
import type { EventsMetrics } from './events-metrics.ts';
import { firstOrderIdAt } from './order-clock.ts';
import { type KnownOrderEvent, knownEvent } from './order-event.ts';
import type { OrderStates } from './order-states.ts';
import type { Projection } from './projections.ts';

const turnEveryMaxMs = 1_000;
/** Turns in a row while there is something to mend. */
const turnsMax = 20;
/** Orders that one turn compares. */
const pageSize = 2_000;
/** Orders that one turn mends. */
const mendMax = 500;
/** What is older is compared in slow passes. */
const recentMs = 3_600_000;
/** Rests between two passes at most; a short age, which only tests have, shortens them. */
const passRestMaxMs = { recent: 30_000, old: 300_000 } as const;
/** How long a database that is away is left alone, and a projection whose events come in faster. */
const laterMs = 10_000;
const busyMs = 1_000;
/** All steps of a turn together end before its claim does. */
const stepMs = 3_000;
const bounds = { wholeMs: 2_000, partMs: 1_000, searchMs: 2_000 };

export interface CatchUpOptions {
  readonly pool: Pool;
  readonly order: OrderStates;
  readonly projection: Projection;
  /** That of the events which come through Kafka: both together keep to it. */
  readonly pacer: EventPacer;
  /** How long an order must be unchanged before its event counts as lost. */
  readonly ageMs: number;
  readonly metrics: Pick<EventsMetrics, 'caughtUp' | 'catchUpFailed'>;
  readonly log: Log;
}

/**
 * Compares a projection with the orders again and again, so that it rests on Kafka for its speed alone:
 * what was lost, set aside or never came is asked for and handled as its events would have been. One
 * page a turn, newest orders first, one process at a time for each database.
 */
export function startCatchUp(options: CatchUpOptions): Loop {
  const { projection, ageMs, log } = options;
  const catchUp = new CatchUp(options);
  return startLoop({
    name: `catch-up.${projection.name}`,
    intervalMs: Math.min(turnEveryMaxMs, ageMs / 4),
    log,
    async run(signal) {
      for (let turn = 0; turn < turnsMax && !signal.aborted; turn += 1) {
        const startedMs = performance.now();
        if (!(await catchUp.turn())) return;
        // Half of the time is the others', for there may be much to mend.
        const tookMs = performance.now() - startedMs;
        await sleep(tookMs, undefined, { signal }).catch(() => undefined);
      }
    },
  });
}

class CatchUp {
  readonly #options: CatchUpOptions;
  readonly #owner = randomUUID();
  readonly #apart: HandleApart<KnownOrderEvent>;
  /** Databases that have cursors; the first is there always, and tells of the others. */
  #databases = 0;

  constructor(options: CatchUpOptions) {
    this.#options = options;
    this.#apart = new HandleApart((events, deadline) =>
      options.projection.handle(events, deadline),
    );
  }

  /** Answers whether something was mended, so that more may follow. */
  async turn(): Promise<boolean> {
    const { pool, projection } = this.#options;
    await this.#knowDatabases(1);
    const turn = await claimTurn(pool, projection.name, this.#owner, Deadline.after(stepMs));
    if (turn === undefined) return false;
    let isStored = false;
    try {
      const { orderId, restMs, mended } = await this.#compare(turn);
      await storeTurn(pool, turn, orderId, restMs, Deadline.after(stepMs));
      isStored = true;
      return mended;
    } finally {
      // The cursor stays, and the next turn looks at the same page, after those of the other databases.
      if (!isStored) {
        const giveUp = storeTurn(pool, turn, undefined, busyMs, Deadline.after(stepMs));
        await giveUp.catch(() => undefined);
      }
    }
  }

  async #compare(
    turn: CatchUpTurn,
  ): Promise<{ orderId: bigint | undefined; restMs: number; mended: boolean }> {
    const { order, projection, ageMs, pacer } = this.#options;
    const { newest, oldest } = this.#rangeOf(turn);
    const untilOrderId = turn.orderId > 0n && turn.orderId <= newest ? turn.orderId - 1n : newest;
    const passRestMs = Math.min(passRestMaxMs[turn.walk], ageMs);
    if (untilOrderId <= oldest) return { orderId: 0n, restMs: passRestMs, mended: false };
    if (pacer.freeInMs(performance.now()) > busyMs) {
      return { orderId: undefined, restMs: busyMs, mended: false };
    }
    const page = await order.list(
      {
        databaseIndex: turn.databaseIndex,
        afterOrderId: oldest,
        untilOrderId,
        newestFirst: true,
        pageSize,
        unchangedMs: BigInt(ageMs),
      },
      Deadline.after(stepMs),
    );
    await this.#knowDatabases(page.databaseCount);
    if (page.unavailable) return { orderId: undefined, restMs: laterMs, mended: false };
    const lacking = await projection.lacking(page.orders, Deadline.after(stepMs));
    const now = lacking.slice(0, mendMax);
    const left = await this.#mend(now);
    // Newest first, so the first that is left is where the next turn goes on.
    const open = left ?? lacking[mendMax];
    const reached = open === undefined ? page.reachedOrderId : open.orderId + 1n;
    if (now.length > 0) return { orderId: reached, restMs: 0, mended: true };
    if (reached <= oldest) return { orderId: 0n, restMs: passRestMs, mended: false };
    return { orderId: reached, restMs: Math.min(turnEveryMaxMs, ageMs / 4), mended: false };
  }

  /** Answers the newest of the orders that no turn came to. @throws Error if nothing can be mended now */
  async #mend(lacking: readonly OrderVersion[]): Promise<OrderVersion | undefined> {
    if (lacking.length === 0) return undefined;
    const { order, pacer, metrics, projection, log } = this.#options;
    const { name: consumer } = projection;
    const ids = lacking.map(({ orderId }) => orderId);
    const { events, unknown } = checked(await order.read(ids, Deadline.after(stepMs)));
    const waitMs = pacer.reserve(events.length, performance.now()) - performance.now();
    if (waitMs > 0) await sleep(waitMs);
    const { failed, untried, away } = await this.#apart.handle(events, bounds);
    if (away !== undefined) throw away;
    const mended = events.length - failed.size - untried.length;
    metrics.caughtUp.inc({ consumer }, mended);
    if (mended > 0) log.info({ consumer, orders: mended }, 'orders whose events did not come');
    const failures = new Map<OrderEvent, unknown>([...unknown, ...failed]);
    for (const [{ orderId }, err] of [...failures].slice(0, 1)) {
      metrics.catchUpFailed.inc({ consumer }, failures.size);
      const fields = { err, consumer, orderId: String(orderId), orders: failures.size };
      log.error(fields, 'orders cannot take effect; the next pass tries again');
    }
    const open = new Set(untried.map(({ orderId }) => orderId));
    return lacking.find(({ orderId }) => open.has(orderId));
  }

  /** From the newest to the oldest order of a walk, by MySQL's clock. */
  #rangeOf({ walk, nowMs }: CatchUpTurn): { readonly newest: bigint; readonly oldest: bigint } {
    const { ageMs, projection } = this.#options;
    const [youngestMs, oldestMs] =
      walk === 'recent' ? [ageMs, recentMs] : [recentMs, projection.ageMaxMs];
    return {
      newest: firstOrderIdAt(nowMs - youngestMs),
      oldest: firstOrderIdAt(nowMs - oldestMs),
    };
  }

  async #knowDatabases(databases: number): Promise<void> {
    if (databases <= this.#databases) return;
    const { pool, projection } = this.#options;
    await addCursors(pool, projection.name, databases, Deadline.after(stepMs));
    this.#databases = databases;
  }
}

/** Orders that are newer than this service keep no others. */
function checked(events: readonly OrderEvent[]): {
  readonly events: KnownOrderEvent[];
  readonly unknown: Map<OrderEvent, unknown>;
} {
  const known: KnownOrderEvent[] = [];
  const unknown = new Map<OrderEvent, unknown>();
  for (const event of events) {
    try {
      known.push(knownEvent(event));
    } catch (error) {
      unknown.set(event, error);
    }
  }
  return { events: known, unknown };
}
