import { setTimeout as sleep } from 'node:timers/promises';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import { readGates } from './gate-view.ts';
import { type ResyncResult, type ResyncSkuOptions, resyncSku } from './resync-sku.ts';
import type { StockMetrics } from './stock-metrics.ts';

/** Why a gate is installed anew. */
export type ResyncCause =
  | 'not_loaded'
  | 'old_epoch'
  | 'ledger_refused'
  | 'contradiction'
  | 'operator'
  | 'new_sku';

/**
 * Asks for a gate to be installed in the background. With the epoch at which something was seen to be
 * wrong, an installation that has come since, by whichever process, makes it needless.
 */
export type RequestResync = (skuId: bigint, cause: ResyncCause, seenEpoch?: bigint) => void;

interface Request {
  readonly cause: ResyncCause;
  readonly seenEpoch: bigint | undefined;
}

/** Gates being installed at once; each takes two connections to the ledger for a moment. */
const concurrencyMax = 3;
/** SKUs waiting; the check of the gates finds the others again. */
const waitingMax = 10_000;
/** A gate just installed is not installed again for refusals that may be older than it. */
const restMs = 1_000;
const busyPollMs = 100;

/** Installs gates one at a time per SKU and a few at once. */
export class ResyncQueue {
  readonly #options: ResyncSkuOptions;
  readonly #metrics: StockMetrics;
  readonly #log: Log;
  readonly #underWay = new Map<bigint, Promise<ResyncResult>>();
  readonly #waiting = new Map<bigint, Request>();
  readonly #restUntilMs = new Map<bigint, number>();
  #closed = false;

  constructor(options: ResyncSkuOptions, metrics: StockMetrics, log: Log) {
    this.#options = options;
    this.#metrics = metrics;
    this.#log = log;
  }

  /** Asks for a gate to be installed in the background; asking again while it waits changes nothing. */
  request(skuId: bigint, cause: ResyncCause, seenEpoch?: bigint): void {
    if (this.#closed || this.#underWay.has(skuId) || this.#waiting.has(skuId)) return;
    if ((this.#restUntilMs.get(skuId) ?? 0) > performance.now()) return;
    if (this.#waiting.size >= waitingMax) return;
    this.#waiting.set(skuId, { cause, seenEpoch });
    this.#startWaiting();
  }

  /**
   * Installs a gate now, and waits for whoever is at it already.
   *
   * @throws Refusal NOT_FOUND; STOCK_NOT_LOADED if it was not opened by the deadline
   */
  async rebuild(
    skuId: bigint,
    cause: ResyncCause,
    deadline: Deadline,
  ): Promise<{ epoch: bigint; available: bigint }> {
    while (!this.#closed && !deadline.passed) {
      await this.#underWay.get(skuId)?.catch(() => undefined);
      // Whoever waited for the same one may have begun the next.
      if (this.#underWay.has(skuId)) continue;
      const result = await this.#start(skuId, cause);
      if (result.kind === 'INSTALLED') return result;
      await sleep(busyPollMs);
    }
    throw new Refusal('STOCK_NOT_LOADED', 'The gate is being installed by another process');
  }

  /** Takes no more and waits for those under way. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#waiting.clear();
    await Promise.allSettled(this.#underWay.values());
  }

  #startWaiting(): void {
    for (const [skuId, { cause, seenEpoch }] of this.#waiting) {
      if (this.#underWay.size >= concurrencyMax) return;
      this.#waiting.delete(skuId);
      if (this.#underWay.has(skuId)) continue;
      this.#startIfNeeded(skuId, { cause, seenEpoch }).catch((error) => {
        this.#log.warn({ err: error, cause }, 'a gate could not be installed, will try again');
      });
    }
  }

  /** By now another process may have installed the gate. */
  #startIfNeeded(skuId: bigint, { cause, seenEpoch }: Request): Promise<ResyncResult> {
    if (cause !== 'not_loaded' && seenEpoch === undefined) return this.#start(skuId, cause);
    return this.#start(skuId, cause, async () => {
      const [view] = await readGates(this.#options.connection, [skuId]);
      if (view?.loaded !== true) return true;
      return seenEpoch !== undefined && view.epoch <= seenEpoch;
    });
  }

  #start(
    skuId: bigint,
    cause: ResyncCause,
    isNeeded: () => Promise<boolean> = () => Promise.resolve(true),
  ): Promise<ResyncResult> {
    const startedMs = performance.now();
    const run = isNeeded()
      .then((needed) => (needed ? resyncSku(this.#options, skuId) : ({ kind: 'BUSY' } as const)))
      .then((result) => {
        if (result.kind === 'INSTALLED') {
          this.#metrics.resyncs.inc({ cause });
          this.#rest(skuId);
          const tookMs = Math.round(performance.now() - startedMs);
          this.#log.info({ cause, tookMs }, 'a gate was installed');
        }
        return result;
      })
      .finally(() => {
        this.#underWay.delete(skuId);
        if (!this.#closed) this.#startWaiting();
      });
    this.#underWay.set(skuId, run);
    return run;
  }

  #rest(skuId: bigint): void {
    if (this.#restUntilMs.size >= waitingMax) this.#restUntilMs.clear();
    this.#restUntilMs.set(skuId, performance.now() + restMs);
  }
}
