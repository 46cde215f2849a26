import { Batcher } from '../runtime/batcher.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { ChangeOrder } from './change-order.ts';
import type { ExpiryConfig } from './config.ts';
import { decideExpire, stepOf } from './order-changes.ts';
import type { OrderDatabase } from './order-database.ts';
import type { OrderMetrics } from './order-metrics.ts';
import type { OrderShards } from './order-shards.ts';
import { type OverduePosition, readOverdueBegun } from './overdue-orders.ts';
import type { PaymentGateway } from './payment-gateway.ts';

export interface ExpireBegunOptions {
  readonly shards: OrderShards;
  readonly pace: ExpiryConfig;
  readonly payment: Pick<PaymentGateway, 'closePayment'>;
  readonly changeOrder: ChangeOrder;
  readonly log: Log;
  readonly metrics: Pick<OrderMetrics, 'expired'>;
}

/** How often a database is looked through that nobody has said anything of. */
const idleMs = 5_000;
/** Orders of one table that are tried in one round at most. */
const pageMax = 100;
const readDeadlineMs = 3_000;
/** To wait for a turn among the others of the round, be voided, and be closed. */
const orderDeadlineMs = 30_000;
/** To be closed once it is voided: buyers' changes share the lane, and must not wait longer for a lost connection. */
const closeDeadlineMs = 5_000;
/** An order that could not be closed waits this long at first, doubled up to the second figure. */
const backoffMs = 1_000;
const backoffMaxMs = 30_000;
/** Orders whose waits are remembered at most; beyond that they are tried in each walk. */
const waitsMax = 10_000;

/**
 * Closes overdue orders whose payment has begun, after payment has voided their sessions. Each
 * round goes on where the last one ended, so that orders which cannot be voided now keep nobody
 * from being closed; they are tried again later.
 */
export function startExpireBegunOrders(options: ExpireBegunOptions): {
  /** There are such orders in a database: looks for them now. */
  wake(database: number): void;
  stop(): Promise<void>;
} {
  const { shards, pace, log } = options;
  const waits = new Waits();
  let stopping = false;
  // One order a batch: the batcher only bounds how many are under way, over all databases.
  const turns = new Batcher<bigint, boolean>({
    name: 'order_expire_begun',
    entriesMax: 1,
    inFlightMax: pace.voidsInFlightMax,
    queueDepthMax: pageMax * shards.databases.length,
    async run([orderId], { deadline }) {
      // What waits for its turn while the process stops is left to the next one.
      return [!stopping && (await expireOne(options, orderId as bigint, deadline))];
    },
  });
  const loops = shards.databases.map((database): Loop => {
    const positions = new Map<string, OverduePosition>();
    return startLoop({
      name: `expire-begun.${database.index}`,
      intervalMs: idleMs,
      log,
      async run(signal) {
        let failure: unknown;
        for (const table of shards.tablesOf(database.index)) {
          if (signal.aborted) return;
          const failed = await expirePage(table, database, positions, waits, turns);
          failure ??= failed;
        }
        if (failure !== undefined) throw failure;
      },
    });
  });
  return {
    wake: (database) => loops[database]?.wake(),
    async stop() {
      stopping = true;
      await Promise.all(loops.map((loop) => loop.stop()));
      await turns.close();
    },
  };
}

/** @returns the first failure, if there was one, after all orders of the page were tried */
async function expirePage(
  table: string,
  database: OrderDatabase,
  positions: Map<string, OverduePosition>,
  waits: Waits,
  turns: Batcher<bigint, boolean>,
): Promise<unknown> {
  const after = positions.get(table);
  const deadline = Deadline.after(readDeadlineMs);
  const page = await readOverdueBegun(database, table, after, pageMax, deadline);
  positions.set(table, page.position);
  const ready = page.orderIds.filter((orderId) => waits.over(orderId));
  const tried = await Promise.allSettled(
    ready.map(async (orderId) => {
      const closed = await turns.add(orderId, Deadline.after(orderDeadlineMs)).catch((error) => {
        waits.begin(orderId);
        throw error;
      });
      if (closed) waits.forget(orderId);
      else waits.begin(orderId);
    }),
  );
  const failed = tried.find((one) => one.status === 'rejected');
  return failed?.status === 'rejected' ? failed.reason : undefined;
}

/** @returns false if it was paid meanwhile: its payment tells the order */
async function expireOne(
  { payment, changeOrder, metrics }: ExpireBegunOptions,
  orderId: bigint,
  deadline: Deadline,
): Promise<boolean> {
  if ((await payment.closePayment(orderId, deadline)) === 'PAID') return false;
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
      deadline.min(closeDeadlineMs),
    );
    if (answer) metrics.expired.inc();
  } catch (error) {
    if (!(error instanceof Refusal && error.reason === 'NOT_FOUND')) throw error;
  }
  return true;
}

/** When orders that could not be closed are tried again; only this process's own memory. */
class Waits {
  readonly #waits = new Map<bigint, { untilMs: number; delayMs: number }>();

  over(orderId: bigint): boolean {
    return (this.#waits.get(orderId)?.untilMs ?? 0) <= performance.now();
  }

  begin(orderId: bigint): void {
    const last = this.#waits.get(orderId)?.delayMs ?? backoffMs / 2;
    if (this.#waits.size >= waitsMax) this.#forgetOld();
    if (this.#waits.size >= waitsMax) return;
    const delayMs = Math.min(backoffMaxMs, last * 2);
    this.#waits.set(orderId, { untilMs: performance.now() + delayMs, delayMs });
  }

  forget(orderId: bigint): void {
    this.#waits.delete(orderId);
  }

  /** Those that were not tried again long after their wait are closed by somebody else. */
  #forgetOld(): void {
    const oldMs = performance.now() - 2 * backoffMaxMs;
    for (const [orderId, { untilMs }] of this.#waits) {
      if (untilMs < oldMs) this.#waits.delete(orderId);
    }
  }
}
