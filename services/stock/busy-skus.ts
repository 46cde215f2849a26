import type { Gauge } from 'prom-client';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { isLockWait, type Pool, transaction } from '../runtime/mysql.ts';
import { type KnownBusySkus, locksWithoutWait, skuLocksSql, skusGot } from './ledger-locks.ts';
import { ascending } from './ledger-sql.ts';

/** How often rows that are locked are looked at again. */
const lookEveryMs = 100;
const lookDeadlineMs = 2_000;
/** Rows looked at in one transaction. */
const lookMax = 500;
/** SKUs remembered at most; those beyond are found busy again by the next attempt. */
const skusMax = 10_000;
/** SKUs whose rows are waited for at once besides, and for how long in one go. */
const waitersMax = 3;
const waiterMs = 500;
/** New orders of a SKU that is busy for longer are refused before they reach its gate. */
const refuseAfterMs = 1_000;
/** Rows that others have locked are waited for so many times as long as a transaction of ours takes … */
const waitFactor = 4;
/** … but for no less and no more milliseconds than this. */
const waitMsMin = 50;
const waitMsMax = 400;
/** Weight of the newest transaction in the mean of what they take. */
const newestWeight = 0.1;

/** SKUs whose rows another transaction keeps locked: an operator's, or that of a copy which hangs. */
export interface BusySkus extends KnownBusySkus {
  /** Whether orders of a SKU would only take units at its gate to wait for its row. */
  refuses(skuId: bigint): boolean;
  stop(): Promise<void>;
}

/**
 * Remembers which SKUs are busy, so that only the first transaction that meets one waits for it, and
 * looks at their rows until they are free. Some it waits for in the queue of the lock, each by itself:
 * beside a copy that posts without a break, nobody who only looks would ever find the row free.
 */
export function startBusySkus(options: {
  readonly pool: Pool;
  readonly busySkus: Gauge;
  readonly log: Log;
}): BusySkus {
  const { pool, busySkus: gauge, log } = options;
  const sinceMs = new Map<bigint, number>();
  const waitedFor = new Set<bigint>();
  let meanMs = 0;

  function forget(skuId: bigint): void {
    const beganMs = sinceMs.get(skuId);
    if (beganMs === undefined) return;
    sinceMs.delete(skuId);
    const heldMs = Math.round(performance.now() - beganMs);
    if (heldMs >= refuseAfterMs) log.info({ skuId: String(skuId), heldMs }, "a SKU's row is free");
  }

  async function look(): Promise<void> {
    const skuIds = ascending([...sinceMs.keys()].slice(0, lookMax));
    if (skuIds.length === 0) return;
    const locks = locksWithoutWait(skuIds);
    const deadline = Deadline.after(lookDeadlineMs);
    const opening = (kind: Parameters<typeof skuLocksSql>[0]): string[] => skuLocksSql(kind, locks);
    const busy = await transaction(pool, { deadline, opening }, async (_, opened) => {
      return skusGot(locks, opened).busy;
    });
    for (const skuId of skuIds) if (!busy.has(skuId)) forget(skuId);
    warnOfOld(busy);
    gauge.set(sinceMs.size);
  }

  /** Waits for those that have been waited for the longest ago. */
  async function waitForSome(): Promise<void> {
    const some = [...sinceMs.keys()].filter((skuId) => !waitedFor.has(skuId)).slice(0, waitersMax);
    if (some.length === 0) return waitedFor.clear();
    for (const skuId of some) waitedFor.add(skuId);
    await Promise.all(some.map(waitFor));
  }

  async function waitFor(skuId: bigint): Promise<void> {
    const locks = { wait: [skuId], waitMs: waiterMs, take: [] };
    const opening = (kind: Parameters<typeof skuLocksSql>[0]): string[] => skuLocksSql(kind, locks);
    try {
      await transaction(
        pool,
        { deadline: Deadline.after(lookDeadlineMs), opening },
        async () => {},
      );
    } catch (error) {
      if (isLockWait(error)) return;
      throw error;
    }
    forget(skuId);
    gauge.set(sinceMs.size);
  }

  const warned = new Set<bigint>();
  function warnOfOld(busy: ReadonlySet<bigint>): void {
    for (const skuId of warned) if (!sinceMs.has(skuId)) warned.delete(skuId);
    for (const skuId of busy) {
      const heldMs = performance.now() - (sinceMs.get(skuId) ?? performance.now());
      if (heldMs < refuseAfterMs || warned.has(skuId)) continue;
      warned.add(skuId);
      const consequence = "a SKU's row is locked by another transaction: its orders are refused";
      log.warn({ skuId: String(skuId) }, consequence);
    }
  }

  const loops = [
    startLoop({ name: 'busy-skus', intervalMs: lookEveryMs, log, run: look }),
    startLoop({ name: 'wait-for-skus', intervalMs: lookEveryMs, log, run: waitForSome }),
  ];
  return {
    among(skuIds) {
      if (sinceMs.size === 0) return new Set();
      return new Set(skuIds.filter((skuId) => sinceMs.has(skuId)));
    },
    note(skuIds, busy) {
      for (const skuId of busy) {
        if (!sinceMs.has(skuId) && sinceMs.size < skusMax) sinceMs.set(skuId, performance.now());
      }
      if (sinceMs.size === 0) return;
      for (const skuId of skuIds) if (!busy.has(skuId)) forget(skuId);
      gauge.set(sinceMs.size);
    },
    took(ms) {
      meanMs += (ms - meanMs) * newestWeight;
    },
    lockWaitMs: () => Math.min(waitMsMax, Math.max(waitMsMin, waitFactor * meanMs)),
    refuses(skuId) {
      const beganMs = sinceMs.get(skuId);
      return beganMs !== undefined && performance.now() - beganMs >= refuseAfterMs;
    },
    async stop() {
      await Promise.all(loops.map((loop) => loop.stop()));
    },
  };
}
