import { randomUUID } from 'node:crypto';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { CompareBuyers } from './compare-buyers.ts';
import {
  type AuditTurn,
  auditedPromises,
  claimAudit,
  type LedgerBreach,
  readAuditResult,
  recountSku,
  releaseAudit,
  skusBehind,
  storeAuditTurn,
} from './ledger-audit.ts';
import { openSnapshot } from './ledger-snapshot.ts';
import type { StockMetrics } from './stock-metrics.ts';

const turnEveryMaxMs = 1_000;
/** A turn ends behind the SKU with which this is exceeded; its snapshot keeps old row versions alive. */
const turnWorkMs = 200;
const turnSkusMax = 500;
/** A SKU of many millions of holds takes seconds; one that takes longer is not audited, and shows by age. */
const deadlineMs = 20_000;
/** A turn is followed by a rest of so many times its duration: it takes a fifth of one connection at most. */
const restFactor = 4;

export interface AuditLedgerOptions {
  readonly pool: Pool;
  readonly compareBuyers: CompareBuyers;
  /** Rest between two passes over all SKUs. */
  readonly intervalMs: number;
  readonly metrics: StockMetrics;
  readonly log: Log;
}

/**
 * Recounts every SKU's holds against its figures, pass after pass, a bounded part a turn and in one
 * process at a time. What it finds is stored, so every process shows the same result.
 */
export function startAuditLedger(options: AuditLedgerOptions): Loop {
  const { pool, compareBuyers, intervalMs, metrics, log } = options;
  const owner = randomUUID();
  const restMaxMs = restMax(options);
  for (const promise of auditedPromises) metrics.auditBreaches.set({ promise }, 0);
  return startLoop({
    name: 'audit-ledger',
    intervalMs: Math.min(turnEveryMaxMs, intervalMs),
    log,
    async run(signal) {
      // A turn that fails again and again must show by the age of the audit, and hold nothing else up.
      let failure: unknown;
      try {
        const after = await claimAudit(pool, owner, restMaxMs, Deadline.after(deadlineMs));
        if (after !== undefined) await takeTurn(options, owner, after, signal);
      } catch (error) {
        failure = error;
      }
      await show(options);
      await compareBuyers();
      if (failure !== undefined) throw failure;
    },
  });
}

/** No turn is followed by a longer rest, in milliseconds. */
function restMax({ intervalMs }: AuditLedgerOptions): number {
  return Math.max(intervalMs, deadlineMs * restFactor);
}

async function takeTurn(
  options: AuditLedgerOptions,
  owner: string,
  after: bigint,
  signal: AbortSignal,
): Promise<void> {
  const { pool, intervalMs, log } = options;
  const startedMs = performance.now();
  let stored = false;
  try {
    const turn = await recount(pool, after, signal);
    if (failpoints.on) await failpoints.hit('stock.before_audit_stored', { skus: turn.skuIds });
    const tookMs = performance.now() - startedMs;
    const wantedMs = Math.max(tookMs * restFactor, turn.passDone ? intervalMs : 0);
    const restMs = Math.min(wantedMs, restMax(options));
    stored = await storeAuditTurn(pool, owner, turn, restMs, Deadline.after(deadlineMs));
    if (!stored) return;
    for (const { skuId, promise, detail } of turn.breaches) {
      log.error({ skuId: String(skuId), promise, detail }, 'the ledger breaks a promise');
    }
  } finally {
    if (!stored) await releaseAudit(pool, owner, Deadline.after(deadlineMs)).catch(() => undefined);
  }
}

async function recount(pool: Pool, after: bigint, signal: AbortSignal): Promise<AuditTurn> {
  const untilMs = performance.now() + turnWorkMs;
  const snapshot = await openSnapshot(pool, Deadline.after(deadlineMs));
  try {
    await snapshot.take();
    const { connection } = snapshot;
    const due = await skusBehind(connection, after, turnSkusMax);
    const skuIds: bigint[] = [];
    const breaches: LedgerBreach[] = [];
    for (const skuId of due) {
      if (skuIds.length > 0 && (performance.now() > untilMs || signal.aborted)) break;
      breaches.push(...(await recountSku(connection, skuId)));
      skuIds.push(skuId);
    }
    const passDone = skuIds.length === due.length && due.length < turnSkusMax;
    return { skuIds, breaches, passDone };
  } finally {
    await snapshot.close();
  }
}

async function show({ pool, metrics }: AuditLedgerOptions): Promise<void> {
  const { breaches, ageSeconds } = await readAuditResult(pool, Deadline.after(deadlineMs));
  for (const promise of auditedPromises) {
    metrics.auditBreaches.set({ promise }, breaches.get(promise) ?? 0);
  }
  metrics.auditAgeSeconds.set({}, ageSeconds);
}
