import { Deadline } from '../runtime/deadline.ts';
import type { JudgedTime } from '../runtime/judged-time.ts';
import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import type { Pool } from '../runtime/mysql.ts';
import type { GateConnection } from './gate-connection.ts';
import { readGates } from './gate-view.ts';
import { skusOnSale } from './ledger-skus.ts';
import type { RequestResync } from './resync-queue.ts';

const lookEveryMs = 500;
const deadlineMs = 5_000;
/** SKUs on sale that are looked at, at the start all of them in pages, and later one page in turn. */
const pageSkus = 500;
const sampleSkus = 50;
/** A SKU that opens within this is on sale: its buyers come at the opening. */
const soonMs = 60_000;
/** So long a start waits for the last gates; one that cannot be installed keeps no process from serving the others. */
const startMsMax = 15_000;
/** Gates are installed anew within this; if none is open for longer, something keeps all of them closed. */
const closedMsMax = 3_000;

export interface GateReadinessOptions {
  readonly pool: Pool;
  readonly connection: GateConnection;
  readonly requestResync: RequestResync;
  readonly time: JudgedTime;
  readonly log: Log;
}

export interface GateReadiness {
  /** What buyers of this process would meet, in one sentence; undefined if gates are open. */
  waitingFor(): string | undefined;
  stop(): Promise<void>;
}

/**
 * Whether buyers find gates open: at the start once those of all SKUs on sale were, or after a while;
 * later as long as one of them is. Asks for gates to be installed that are missing.
 */
export function startGateReadiness(options: GateReadinessOptions): GateReadiness {
  const startedMs = performance.now();
  let started = false;
  let openAtMs = performance.now();
  let after = 0n;

  async function lookAtAll(): Promise<void> {
    let closed = 0;
    for (let from = 0n; ; ) {
      const page = await lookAtPage(options, from, pageSkus);
      closed += page.closed;
      if (page.last === undefined) break;
      from = page.last;
    }
    started = closed === 0 || performance.now() - startedMs > startMsMax;
    if (started) openAtMs = performance.now();
  }

  async function lookAtSome(): Promise<void> {
    const page = await lookAtPage(options, after, sampleSkus);
    if (page.open > 0 || page.closed === 0) openAtMs = performance.now();
    after = page.last ?? 0n;
  }

  const loop = startLoop({
    name: 'gate-readiness',
    intervalMs: lookEveryMs,
    log: options.log,
    run: () => (started ? lookAtSome() : lookAtAll()),
  });
  return {
    waitingFor() {
      if (!started) return 'the gates of the SKUs on sale';
      return performance.now() - openAtMs > closedMsMax ? 'an open gate' : undefined;
    },
    stop: () => loop.stop(),
  };
}

interface Page {
  readonly open: number;
  readonly closed: number;
  /** Behind which to go on; undefined if there are no more. */
  readonly last: bigint | undefined;
}

async function lookAtPage(
  { pool, connection, requestResync, time }: GateReadinessOptions,
  after: bigint,
  max: number,
): Promise<Page> {
  const nowMs = time.nowMs() ?? Date.now();
  const soon = { after, max, openBefore: new Date(nowMs + soonMs), closeAfter: new Date(nowMs) };
  const { skuIds, last } = await skusOnSale(pool, soon, Deadline.after(deadlineMs));
  const views = skuIds.length > 0 ? await readGates(connection, skuIds) : [];
  const closed = skuIds.filter((_, index) => views[index]?.loaded !== true);
  for (const skuId of closed) requestResync(skuId, 'not_loaded');
  return {
    open: skuIds.length - closed.length,
    closed: closed.length,
    last,
  };
}
