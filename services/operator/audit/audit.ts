import { CouldNotLook } from '../could-not-look.ts';
import type { GateReader } from '../gates.ts';
import type { GroupReader } from '../groups.ts';
import { firstOrderIdAt, orderIdMax } from '../order-id.ts';
import type { Progress } from '../progress.ts';
import type { Stores } from '../stores.ts';
import { readAuditClock } from './audit-clock.ts';
import { createdIsStored } from './created-is-stored.ts';
import { eventsTakeEffect } from './events-take-effect.ts';
import { gateEqualsLedger } from './gate-equals-ledger.ts';
import { heldStockComesBack } from './held-stock-comes-back.ts';
import { type FoundFlaw, LookAgain } from './look-again.ts';
import { neverOversell } from './never-oversell.ts';
import { oneOrderPerRequest } from './one-order-per-request.ts';
import { onePaymentPerOrder } from './one-payment-per-order.ts';
import type { OrderPicture } from './order-picture.ts';
import { readWindows } from './order-windows.ts';
import type { Clock, PromiseCheck, PromiseId } from './promise.ts';
import { readPictures } from './read-pictures.ts';
import { type PromiseResult, Tally } from './tally.ts';
import { unknownIsSettled } from './unknown-is-settled.ts';

/** Every promise that the audit looks after, in the order of its table. */
export const promiseChecks: readonly PromiseCheck[] = [
  neverOversell,
  oneOrderPerRequest,
  createdIsStored,
  unknownIsSettled,
  heldStockComesBack,
  onePaymentPerOrder,
  eventsTakeEffect,
  gateEqualsLedger,
];

/** Ids come from the clocks of their makers; one this far ahead is not of a running order. */
const clockLeadMs = 3_600_000;

export interface AuditOptions {
  readonly stores: Stores;
  readonly gates: GateReader;
  readonly groups: GroupReader;
  readonly promises: readonly PromiseId[];
  /** Only these SKUs, and orders that have one of them; undefined means all. */
  readonly skuIds: readonly string[] | undefined;
  /** For how long things may disagree while the system works on them. */
  readonly graceSeconds: number;
  readonly progress: Progress;
}

export interface AuditResult {
  readonly startTime: string;
  readonly seconds: number;
  readonly graceSeconds: number;
  /** Looks at orders beyond the first one, because something was changing. */
  readonly looksAgain: number;
  readonly breaches: number;
  readonly findings: number;
  readonly promises: readonly PromiseResult[];
}

/** Looks whether the promises hold. What it cannot look at is in the result. @throws for faults of its own only */
export async function audit(options: AuditOptions): Promise<AuditResult> {
  const beganAtMs = performance.now();
  const startTime = new Date().toISOString();
  const checks = promiseChecks.filter(({ id }) => options.promises.includes(id));
  const tally = new Tally(checks);
  const looksAgain = await lookAtOrders(options, checks, tally);
  for (const check of checks) await lookAtStores(options, check, tally);
  options.progress.done();
  const promises = tally.results;
  const sum = (figure: 'breaches' | 'findings'): number =>
    promises.reduce((total, result) => total + result[figure], 0);
  return {
    startTime,
    seconds: Math.round((performance.now() - beganAtMs) / 100) / 10,
    graceSeconds: options.graceSeconds,
    looksAgain,
    breaches: sum('breaches'),
    findings: sum('findings'),
    promises,
  };
}

async function lookAtStores(
  options: AuditOptions,
  check: PromiseCheck,
  tally: Tally,
): Promise<void> {
  const { stores, graceSeconds, skuIds, gates, groups } = options;
  options.progress.show(`${check.id} ${check.title}`);
  try {
    await check.lookAtStores?.({
      stores,
      graceSeconds,
      skuIds,
      readGate: (skuId) => gates.read(skuId),
      readGroups: () => groups.read(),
      count: (what, by) => tally.count(check.id, what, by),
      report: (flaw) => tally.add({ promise: check.id, ...flaw }),
    });
  } catch (error) {
    if (!(error instanceof CouldNotLook)) throw error;
    tally.couldNotLook(check.id, error.message);
  }
}

/** All stores side by side, order by order. */
async function lookAtOrders(
  options: AuditOptions,
  checks: readonly PromiseCheck[],
  tally: Tally,
): Promise<number> {
  const orderChecks = checks.filter(({ lookAtOrder }) => lookAtOrder !== undefined);
  if (orderChecks.length === 0) return 0;
  const { stores, graceSeconds, progress } = options;
  const groups = checks.includes(eventsTakeEffect) ? options.groups : undefined;
  const clockNow = (): Promise<Clock> => readAuditClock(stores, groups, graceSeconds);
  const look = (picture: OrderPicture, clock: Clock): FoundFlaw[] =>
    lookAtOne(orderChecks, picture, clock, stores.slots);
  const again = new LookAgain({
    graceSeconds,
    read: (orderIds) => readPictures(stores, { orderIds }),
    readClock: clockNow,
    look,
    confirm: (flaws) => {
      for (const flaw of flaws) tally.add(flaw);
    },
  });
  const counters = orderChecks.map(({ id, counts }) => {
    const count = (what: string, by: number): void => tally.count(id, what, by);
    return (picture: OrderPicture): void => counts?.(picture, count);
  });
  try {
    const start = await clockNow();
    const startMs = Date.parse(`${start.now.replace(' ', 'T')}Z`);
    // Orders of later than now are left to the next audit, or this one would never end; but not those of the far future.
    const ranges = [
      { after: -1n, until: firstOrderIdAt(startMs) },
      { after: firstOrderIdAt(startMs + clockLeadMs), until: orderIdMax },
    ];
    let orders = 0;
    for (const range of ranges) {
      for await (const { pictures, until } of readWindows(stores, range)) {
        for (const picture of pictures.values()) {
          if (!isChosen(picture, options.skuIds)) continue;
          orders += 1;
          for (const count of counters) count(picture);
          if (look(picture, start).length > 0) await again.add(picture);
        }
        progress.orders(orders, until, again.waiting);
      }
    }
    progress.show(`${again.waiting} orders are looked at again`);
    await again.finish();
  } catch (error) {
    if (!(error instanceof CouldNotLook)) throw error;
    for (const { id } of orderChecks) tally.couldNotLook(id, error.message);
  }
  return again.looks;
}

function lookAtOne(
  checks: readonly PromiseCheck[],
  picture: OrderPicture,
  clock: Clock,
  slots: Stores['slots'],
): FoundFlaw[] {
  const flaws: FoundFlaw[] = [];
  for (const { id, lookAtOrder } of checks) {
    lookAtOrder?.({
      picture,
      clock,
      slots,
      report: (flaw) => flaws.push({ promise: id, ...flaw }),
    });
  }
  return flaws;
}

function isChosen({ items, holds }: OrderPicture, skuIds: readonly string[] | undefined): boolean {
  if (skuIds === undefined) return true;
  return [...items, ...holds].some(({ skuId }) => skuIds.includes(skuId));
}
