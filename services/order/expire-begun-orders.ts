import { Batcher } from '../runtime/batcher.ts';
import { startClaimedWork } from '../runtime/claimed-work.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { ChangeOrder } from './change-order.ts';
import type { ExpiryConfig } from './config.ts';
import { decideExpire, stepOf } from './order-changes.ts';
import { type OrderDatabase, StaleSlotMap } from './order-database.ts';
import type { OrderMetrics } from './order-metrics.ts';
import type { OrderShards } from './order-shards.ts';
import {
  type Attempted,
  type ClaimedOrder,
  claimOverdue,
  noteOverdue,
  type OverduePosition,
  type Place,
  settleOverdue,
} from './overdue-begun.ts';
import type { PaymentGateway } from './payment-gateway.ts';

export interface ExpireBegunOptions {
  readonly shards: OrderShards;
  readonly pace: ExpiryConfig;
  readonly payment: Pick<PaymentGateway, 'closePayment' | 'takesBackground'>;
  readonly changeOrder: ChangeOrder;
  readonly log: Log;
  readonly metrics: Pick<OrderMetrics, 'expired'>;
}

/** How often a database is looked through that nobody has said anything of. */
const idleMs = 5_000;
/** How soon it is looked through again at least; and if many orders were read that had all been noted before. */
const restMs = 200;
const longRestMs = 2_000;
const manyRead = 1_000;
/** Orders of one table that are noted in one look, and looks in one round; more are noted in the next. */
const pageMax = 200;
const pagesMax = 10;
const statementMs = 3_000;
/**
 * One attempt, with all that it asks. An order that is void is closed in what is left of it: buyers' changes share the lane,
 * and must not wait longer for a lost connection.
 */
const attemptMs = 5_000;
/** How long a claim lasts: longer than an attempt, so that an order is not in two hands, and a copy that dies leaves it soon. */
const leaseMs = 6_500;
/** An order that could not be closed waits this long at first, doubled up to the second figure. */
const backoffMs = 1_000;
const backoffMaxMs = 30_000;
/** A bank takes hours or days to decide on a debit: it is asked about every few minutes, each order at another moment. */
const processingMs = 180_000;
const jitter = 0.25;
/** What attempts came to, noted in one round trip. */
const settledMax = 200;
const settleQueueMax = 10_000;

/**
 * Closes overdue orders whose payment has begun, after payment has voided their sessions. All copies share the work by
 * claims in the database; one that cannot be voided now is tried again later, and keeps nobody from being closed.
 */
export function startExpireBegunOrders(options: ExpireBegunOptions): {
  /** There are such orders in a database: looks for them now. */
  wake(database: number): void;
  stop(): Promise<void>;
} {
  const { shards } = options;
  const running = shards.databases.map((database) => startDatabase(options, database));
  return {
    wake: (database) => running[database]?.wake(),
    async stop() {
      await Promise.all(running.map((each) => each.stop()));
    },
  };
}

function startDatabase(options: ExpireBegunOptions, database: OrderDatabase): Loop {
  const { shards, pace, payment, log } = options;
  const place = { shards, database };
  const settling = new Batcher<Attempted, void>({
    name: 'order_void_settled',
    ...{ entriesMax: settledMax, inFlightMax: 1, queueDepthMax: settleQueueMax },
    async run(attempted, { deadline }) {
      await routed(place, deadline, () => settleOverdue(place, attempted, deadline));
      return attempted.map(() => undefined);
    },
  });
  const settle = (attempted: Attempted): Promise<void> =>
    settling.add(attempted, Deadline.after(statementMs));
  const voiding = startClaimedWork<ClaimedOrder>({
    name: `void-begun.${database.index}`,
    intervalMs: idleMs,
    slots: Math.max(1, Math.ceil(pace.voidsInFlightMax / shards.databases.length)),
    log,
    async claim(max) {
      // Another copy may reach it; what this one would only fail at is left to that one.
      if (!payment.takesBackground()) throw new Refusal('DEPENDENCY_DOWN', 'Payment is away');
      const deadline = Deadline.after(statementMs);
      const claiming = { max, leaseMs };
      return (await routed(place, deadline, () => claimOverdue(place, claiming, deadline))) ?? [];
    },
    async run(order) {
      const { attempted, failure } = await attempt(options, order);
      // If this is not noted, the claim runs out, and the order is tried again.
      await settle(attempted);
      if (failure !== undefined) throw failure;
    },
    release: async (orders) => {
      const again = { done: false, againMs: 0, isProcessing: false } as const;
      await Promise.all(orders.map((order) => settle({ ...again, order })));
    },
  });
  const noting = startNoting(options, place, voiding.wake);
  return {
    wake: noting.wake,
    async stop() {
      await noting.stop();
      await voiding.stop();
      await settling.close();
    },
  };
}

/** Looks for orders to note down. Woken all the time while there are any, it rests between two looks. */
function startNoting({ log }: ExpireBegunOptions, place: Place, onNoted: () => void): Loop {
  const positions = new Map<string, OverduePosition>();
  let restsUntilMs = Number.NEGATIVE_INFINITY;
  const loop = startLoop({
    name: `expire-begun.${place.database.index}`,
    intervalMs: idleMs,
    log,
    async run(signal) {
      const { shards, database } = place;
      let tables: readonly string[] = shards.tablesOf(database.index);
      let known = 0;
      for (let page = 0; page < pagesMax && tables.length > 0 && !signal.aborted; page += 1) {
        const deadline = Deadline.after(statementMs);
        const looking = tables;
        const noted = await routed(place, deadline, () =>
          noteOverdue(place, looking, positions, pageMax, deadline),
        );
        tables = noted?.more ?? [];
        known += (noted?.read ?? 0) - (noted?.fresh ?? 0);
        // Also for those that were noted before, by a copy that died.
        onNoted();
      }
      restsUntilMs = performance.now() + (known >= manyRead ? longRestMs : restMs);
    },
  });
  return {
    wake() {
      if (performance.now() >= restsUntilMs) loop.wake();
    },
    stop: loop.stop,
  };
}

/** What `work` answers, or undefined if it was led by a slot map that has changed; then the new one is read. */
async function routed<Result>(
  { shards, database }: Place,
  deadline: Deadline,
  work: () => Promise<Result>,
): Promise<Result | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof StaleSlotMap)) throw error;
    await shards.refresh(database.index, deadline);
    return undefined;
  }
}

/** One attempt; what fails is tried again later. */
async function attempt(
  options: ExpireBegunOptions,
  order: ClaimedOrder,
): Promise<{ readonly attempted: Attempted; readonly failure?: unknown }> {
  const { payment } = options;
  const deadline = Deadline.after(attemptMs);
  const again = (againMs: number, isProcessing = false): Attempted => ({
    ...{ order, done: false, isProcessing },
    againMs: againMs * (1 + jitter * (2 * Math.random() - 1)),
  });
  const laterMs = Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(order.attempts - 1, 10));
  try {
    const closing = await payment.closePayment(order.orderId, deadline, 'nobody');
    if (closing === 'PROCESSING') return { attempted: again(processingMs, true) };
    // Its payment tells the order soon.
    if (closing === 'PAID') return { attempted: again(laterMs) };
    await close(options, order.orderId, deadline);
    return { attempted: { order, done: true } };
  } catch (failure) {
    return { attempted: again(laterMs), failure };
  }
}

async function close(
  { changeOrder, metrics }: ExpireBegunOptions,
  orderId: bigint,
  deadline: Deadline,
): Promise<void> {
  try {
    const { answer } = await changeOrder(
      {
        name: 'expire',
        orderId,
        userId: 0n,
        decide(current) {
          const effect = decideExpire(current, { voided: true });
          const expires = effect === 'expires';
          const { status } = current.order;
          return { steps: expires ? [stepOf('expire', status)] : [], answer: expires };
        },
      },
      deadline,
    );
    if (answer) metrics.expired.inc();
  } catch (error) {
    if (!(error instanceof Refusal && error.reason === 'NOT_FOUND')) throw error;
  }
}
