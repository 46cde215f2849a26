import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { CreditFenced } from './credit-fenced.ts';
import type { ClosedGate, Gate } from './gate.ts';
import type { GateConnection } from './gate-connection.ts';
import { readGates } from './gate-view.ts';
import { type Installation, openInstallation } from './ledger-installation.ts';
import type { KnownBusySkus } from './ledger-locks.ts';
import { gateSettings, type SkuRow } from './ledger-skus.ts';
import { settleEntries } from './settle-pending.ts';

/** Another process that has closed a gate is given this long after it was last heard of. */
const respectOthersMs = 3_000;
/** Orders that had passed before the gate closed may finish their posts for this long. */
const graceMs = 1_000;
const drainPollMs = 25;
/** Pending entries settled at a time, and how many times. */
const settleMax = 500;
const settleRoundsMax = 2_000;
/** Every pending entry, whatever clock stamped it. */
const anyAgeMs = -1e12;
/** A resync of millions of buyers takes seconds; beyond this something hangs. */
const deadlineMs = 60_000;

export interface ResyncSkuOptions {
  /** Names this process among those that install gates; it never installs one gate twice at once. */
  readonly owner: string;
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly pool: Pool;
  readonly busySkus: KnownBusySkus;
  readonly creditFenced: CreditFenced;
}

/**
 * What a gate was opened with; or BUSY, another process is at it, or keeps the SKU's row locked; or
 * SUPERSEDED, one took over; or NOT_FOUND, there is no such SKU.
 */
export type ResyncResult =
  | { readonly kind: 'INSTALLED'; readonly epoch: bigint; readonly available: bigint }
  | { readonly kind: 'BUSY' | 'SUPERSEDED' | 'NOT_FOUND' };

/**
 * Installs the gates of some SKUs anew from the ledger, with one transaction for all of them; other
 * SKUs are untouched. Nothing else ever writes the ledger's figure into a gate. Answers per SKU.
 *
 * @throws any failure leaves the gates that are not open yet closed until somebody tries again
 */
export async function resyncSkus(
  options: ResyncSkuOptions,
  skuIds: readonly bigint[],
): Promise<Map<bigint, ResyncResult>> {
  const deadline = Deadline.after(deadlineMs);
  const closed = await closeAll(options, skuIds);
  const results = new Map<bigint, ResyncResult>();
  for (const skuId of skuIds) {
    results.set(skuId, { kind: closed.has(skuId) ? 'NOT_FOUND' : 'BUSY' });
  }
  if (closed.size === 0) return results;
  if (failpoints.on) await failpoints.hit('stock.resync_closed', { skuIds: [...closed.keys()] });
  const drainedIds = await drain(options, [...closed.keys()], deadline);
  const { pool, busySkus } = options;
  const installation = await openInstallation(pool, busySkus, drainedIds, deadline);
  for (const skuId of closed.keys()) {
    if (!drainedIds.includes(skuId) || installation.busy.has(skuId)) {
      results.set(skuId, { kind: 'BUSY' });
    }
  }
  try {
    if (failpoints.on) await failpoints.hit('stock.resync_read', { skuIds: drainedIds });
    await installAll(options.gate, closed, installation, results);
    return results;
  } finally {
    await installation.close();
  }
}

/** Closes the gates that no other process is at. */
async function closeAll(
  { gate, owner }: ResyncSkuOptions,
  skuIds: readonly bigint[],
): Promise<Map<bigint, ClosedGate>> {
  const closed = new Map<bigint, ClosedGate>();
  const closing = skuIds.map(async (skuId) => {
    const right = await gate.close(skuId, `${owner}:${randomUUID()}`, respectOthersMs);
    if (right) closed.set(skuId, right);
  });
  const results = await Promise.allSettled(closing);
  const failed = results.find(({ status }) => status === 'rejected');
  // What fails at one gate keeps no other closed.
  if (failed?.status === 'rejected' && closed.size === 0) throw failed.reason;
  return closed;
}

/**
 * Waits a moment for posts under way, then bars those that have not come. Answers the SKUs that have
 * nothing pending any more; one that cannot be settled now keeps none of the others.
 */
async function drain(
  options: ResyncSkuOptions,
  skuIds: readonly bigint[],
  deadline: Deadline,
): Promise<bigint[]> {
  const grace = Deadline.after(graceMs);
  for (;;) {
    const views = await readGates(options.connection, skuIds);
    if (views.every(({ pendingOrders }) => pendingOrders === 0)) return [...skuIds];
    if (grace.passed) break;
    await sleep(drainPollMs);
  }
  let left: readonly bigint[] = skuIds;
  const stuck = new Set<bigint>();
  for (let round = 0; round < settleRoundsMax && left.length > 0; round += 1) {
    const what = { ageMs: anyAgeMs, max: settleMax };
    const settled = await settleEntries(options, left, what, deadline);
    for (const skuId of settled.stuck.keys()) stuck.add(skuId);
    // Whatever it found is asked for once more: more may have been there than one look takes.
    left = settled.lines === 0 ? [] : left.filter((skuId) => !stuck.has(skuId));
  }
  return skuIds.filter((skuId) => !stuck.has(skuId) && !left.includes(skuId));
}

/** Writes the buyers chunk by chunk and opens each gate behind its last one. */
async function installAll(
  gate: Gate,
  closed: ReadonlyMap<bigint, ClosedGate>,
  { skus, buyers }: Installation,
  results: Map<bigint, ResyncResult>,
): Promise<void> {
  const bySku = new Map(skus.map((sku) => [sku.skuId, sku]));
  const begun = new Set<bigint>();
  const opening: Promise<void>[] = [];
  for await (const { skuId, fields, last } of buyers()) {
    const right = closed.get(skuId) as ClosedGate;
    const write = () => gate.installBuyers(skuId, right, { first: !begun.has(skuId), fields });
    if (!last) {
      await write();
      begun.add(skuId);
      continue;
    }
    const open = async (): Promise<void> => {
      const written = await write();
      const opened = written && (await openOne(gate, bySku.get(skuId) as SkuRow, right));
      results.set(skuId, opened || { kind: 'SUPERSEDED' });
    };
    const opened = open();
    // Awaited below; until then a failure must not count as nobody's.
    opened.catch(() => undefined);
    opening.push(opened);
  }
  await Promise.all(opening);
}

async function openOne(
  gate: Gate,
  sku: SkuRow,
  closed: ClosedGate,
): Promise<ResyncResult | undefined> {
  const { skuId, epoch, available } = sku;
  if (failpoints.on) await failpoints.hit('stock.before_install', { skuId });
  const settings = gateSettings(sku);
  const opened = await gate.install(skuId, closed, { epoch, available, settings });
  return opened ? { kind: 'INSTALLED', epoch, available } : undefined;
}
