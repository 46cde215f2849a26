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
import { gateSettings } from './ledger-skus.ts';
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
  readonly gate: Gate;
  readonly connection: GateConnection;
  readonly pool: Pool;
  readonly creditFenced: CreditFenced;
}

/** What a gate was opened with; or BUSY, another process is at it; or SUPERSEDED, one took over. */
export type ResyncResult =
  | { readonly kind: 'INSTALLED'; readonly epoch: bigint; readonly available: bigint }
  | { readonly kind: 'BUSY' | 'SUPERSEDED' };

/**
 * Installs the gate of one SKU anew from the ledger; other SKUs are untouched. Nothing else ever
 * writes the ledger's figure into a gate.
 *
 * @throws Refusal NOT_FOUND; any other failure leaves the gate closed until somebody tries again
 */
export async function resyncSku(options: ResyncSkuOptions, skuId: bigint): Promise<ResyncResult> {
  const deadline = Deadline.after(deadlineMs);
  const closed = await options.gate.close(skuId, randomUUID(), respectOthersMs);
  if (closed === undefined) return { kind: 'BUSY' };
  if (failpoints.on) await failpoints.hit('stock.resync_closed', { skuId });
  await drain(options, skuId, deadline);
  const installation = await openInstallation(options.pool, skuId, deadline);
  try {
    if (failpoints.on) await failpoints.hit('stock.resync_read', { skuId });
    return await install(options, skuId, closed, installation);
  } finally {
    await installation.close();
  }
}

/** Waits a moment for posts under way, then bars those that have not come. */
async function drain(
  { gate, connection, pool, creditFenced }: ResyncSkuOptions,
  skuId: bigint,
  deadline: Deadline,
): Promise<void> {
  const grace = Deadline.after(graceMs);
  for (;;) {
    const [view] = await readGates(connection, [skuId]);
    if (view?.pendingOrders === 0) return;
    if (grace.passed) break;
    await sleep(drainPollMs);
  }
  for (let round = 0; round < settleRoundsMax; round += 1) {
    const settled = await settleEntries(
      { gate, connection, pool, creditFenced },
      [skuId],
      { ageMs: anyAgeMs, max: settleMax },
      deadline,
    );
    if (settled.lines === 0) return;
  }
  throw new Error(`SKU ${skuId} keeps pending entries although its gate is closed`);
}

async function install(
  { gate }: ResyncSkuOptions,
  skuId: bigint,
  closed: ClosedGate,
  { sku, buyers }: Installation,
): Promise<ResyncResult> {
  let first = true;
  for await (const fields of buyers()) {
    if (!(await gate.installBuyers(skuId, closed, { first, fields })))
      return { kind: 'SUPERSEDED' };
    first = false;
  }
  if (first && !(await gate.installBuyers(skuId, closed, { first, fields: [] }))) {
    return { kind: 'SUPERSEDED' };
  }
  if (failpoints.on) await failpoints.hit('stock.before_install', { skuId });
  const { epoch, available } = sku;
  const opened = await gate.install(skuId, closed, {
    epoch,
    available,
    settings: gateSettings(sku),
  });
  return opened ? { kind: 'INSTALLED', epoch, available } : { kind: 'SUPERSEDED' };
}
