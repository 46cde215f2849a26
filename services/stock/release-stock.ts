import { setTimeout as sleep } from 'node:timers/promises';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import type { Pool } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { CreditFenced, FencedLine } from './credit-fenced.ts';
import type { Gate } from './gate.ts';
import { holdState } from './hold-states.ts';
import type { KnownBusySkus } from './ledger-locks.ts';
import { type MovedHold, moveHolds, type OrderMove } from './ledger-moves.ts';
import type { StockMetrics } from './stock-metrics.ts';

/** A gate that is being installed is asked again this often, every `retryMs`. */
const retriesMax = 50;
const retryMs = 100;
/** Credits waiting for an installation; what exceeds this shows as a contradiction and is healed. */
const retryingMax = 1_000;

export interface ReleaseOptions {
  /**
   * Whether records that name the orders are forgotten, so that their requests start over: for
   * orders that never came to be. A cancelled order keeps its record, which leads a retry to it.
   */
  readonly forgetRequests: boolean;
}

/**
 * Some orders' holds could not be moved, because another transaction keeps a row of theirs locked;
 * those of all others were. Nothing was done about these.
 */
export class HoldsBusy extends Refusal {
  readonly orderIds: ReadonlySet<bigint>;
  /** Units credited of all orders of the call, in their order; 0 for those that are busy. */
  readonly units: readonly bigint[];

  constructor(orderIds: ReadonlySet<bigint>, units: readonly bigint[]) {
    super('OVERLOADED', `The stock of ${orderIds.size} orders is locked by another transaction`);
    this.orderIds = orderIds;
    this.units = units;
  }
}

/** Moves holds and gives the gates what became available; answers the units credited per order. */
export interface ReleaseStock {
  /**
   * @throws HoldsBusy after all others were moved; Refusal if the ledger was not moved (or
   *   OUTCOME_UNKNOWN). Asking again does no harm
   */
  release(
    orders: readonly OrderMove[],
    options: ReleaseOptions,
    deadline: Deadline,
  ): Promise<bigint[]>;
  /** Waits for credits that wait for an installation. */
  close(): Promise<void>;
}

export function createReleaseStock({
  pool,
  busySkus,
  gate,
  creditFenced,
  metrics,
  log,
}: {
  readonly pool: Pool;
  readonly busySkus: KnownBusySkus;
  readonly gate: Gate;
  readonly creditFenced: CreditFenced;
  readonly metrics: StockMetrics;
  readonly log: Log;
}): ReleaseStock {
  const retrying = new Set<Promise<void>>();
  let closed = false;

  /** Once per move: an answer that was lost is not asked for again. */
  async function credit(holds: readonly MovedHold[]): Promise<void> {
    const { skuId, epoch } = holds[0] as MovedHold;
    if (failpoints.on) await failpoints.hit('stock.before_credit', { lines: holds.length });
    const result = await gate.release(skuId, epoch, holds);
    metrics.credits.inc({ result: result.toLowerCase() }, holds.length);
    if (result !== 'GATE_OLDER' || retrying.size >= retryingMax) return;
    const work = creditLater(holds).finally(() => retrying.delete(work));
    retrying.add(work);
  }

  /** The gate of this epoch is about to be opened, with figures that lack these units. */
  async function creditLater(holds: readonly MovedHold[]): Promise<void> {
    const { skuId, epoch } = holds[0] as MovedHold;
    try {
      for (let attempt = 0; attempt < retriesMax && !closed; attempt += 1) {
        await sleep(retryMs);
        const result = await gate.release(skuId, epoch, holds);
        metrics.credits.inc({ result: result.toLowerCase() }, holds.length);
        if (result !== 'GATE_OLDER') return;
      }
    } catch (error) {
      log.warn({ err: error }, 'a credit was lost and will be healed');
    }
  }

  async function creditAll(moved: readonly MovedHold[]): Promise<void> {
    const groups = Map.groupBy(
      moved.filter((hold) => hold.credit),
      ({ skuId, epoch }) => `${skuId}:${epoch}`,
    );
    const credits = await Promise.allSettled([...groups.values()].map(credit));
    const failed = credits.find(({ status }) => status === 'rejected');
    const { reason } = (failed ?? {}) as PromiseRejectedResult;
    if (failed) log.warn({ err: reason }, 'a credit was lost and will be healed');
  }

  return {
    async release(orders, { forgetRequests }, deadline) {
      const { moved, rows, busy } = await moveHolds(pool, busySkus, orders, deadline);
      if (failpoints.on)
        await failpoints.hit('stock.after_release_commit', { orders: orders.length });
      const fences = moved.filter(({ fenced }) => fenced);
      const fenced: FencedLine[] = rows.filter(({ state }) => state === holdState.FENCED);
      await creditFenced([...fences, ...fenced]);
      await creditAll(moved);
      if (forgetRequests) await forget(gate, rows, log);
      if (busy.size > 0) throw new HoldsBusy(busy, unitsOf(orders, moved));
      return unitsOf(orders, moved);
    },
    async close() {
      closed = true;
      await Promise.allSettled(retrying);
    },
  };
}

/** Fenced lines lost their records with their credit. */
async function forget(gate: Gate, rows: readonly FencedLine[], log: Log): Promise<void> {
  const bySku = Map.groupBy(rows, ({ skuId }) => skuId);
  const calls = [...bySku].map(([skuId, orders]) => gate.forgetRequests(skuId, orders));
  const failed = (await Promise.allSettled(calls)).find(({ status }) => status === 'rejected');
  // A record that stays leads a retry to a dead order id, which it then leaves behind.
  if (failed) log.debug({ err: (failed as PromiseRejectedResult).reason }, 'records stay');
}

function unitsOf(orders: readonly OrderMove[], moved: readonly MovedHold[]): bigint[] {
  const units = new Map<bigint, bigint>();
  for (const { orderId, credit, units: credited } of moved) {
    if (credit) units.set(orderId, (units.get(orderId) ?? 0n) + BigInt(credited));
  }
  return orders.map(({ orderId }) => {
    const credited = units.get(orderId) ?? 0n;
    // Named twice in one call, an order is credited once and counted once.
    units.delete(orderId);
    return credited;
  });
}
