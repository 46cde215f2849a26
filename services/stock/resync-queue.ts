import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import { readGates } from './gate-view.ts';
import { type ResyncResult, type ResyncSkuOptions, resyncSkus } from './resync-sku.ts';
import type { StockMetrics } from './stock-metrics.ts';
import { WantedGates } from './wanted-gates.ts';

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

/** Groups of gates being installed at once; each takes two connections to the ledger for a moment. */
const concurrencyMax = 3;
/** Gates that are installed at once beside them because somebody waits for it. */
const rebuildsMax = 2;
/** Gates that are missing are installed together, for after a loss all of them are. */
const groupMax = 200;
/** SKUs waiting; the check of the gates finds the others again. */
const waitingMax = 10_000;
/** A gate just installed is not installed again for refusals that may be older than it. */
const restMs = 1_000;
const busyPollMs = 100;

/** Installs gates, each by one at a time. */
export class ResyncQueue {
  readonly #options: ResyncSkuOptions;
  readonly #metrics: StockMetrics;
  readonly #log: Log;
  readonly #underWay = new Map<bigint, Promise<unknown>>();
  readonly #waiting = new Map<bigint, Request>();
  readonly #restUntilMs = new Map<bigint, number>();
  readonly #wanted: WantedGates;
  readonly #rebuilding = new Set<Promise<unknown>>();
  #groups = 0;
  #closed = false;

  constructor(options: Omit<ResyncSkuOptions, 'owner'>, metrics: StockMetrics, log: Log) {
    this.#options = { ...options, owner: randomUUID() };
    this.#metrics = metrics;
    this.#log = log;
    this.#wanted = new WantedGates(
      (skuId) => this.#underWay.has(skuId) || !options.connection.connected,
    );
    metrics.resyncLag.ms = () => this.#wanted.lagMs();
  }

  /** Asks for a gate to be installed in the background; asking again while it waits changes nothing. */
  request(skuId: bigint, cause: ResyncCause, seenEpoch?: bigint): void {
    if (this.#closed || (this.#restUntilMs.get(skuId) ?? 0) > performance.now()) return;
    this.#wanted.want(skuId);
    if (this.#underWay.has(skuId) || this.#waiting.has(skuId)) return;
    if (this.#waiting.size >= waitingMax) return;
    this.#waiting.set(skuId, { cause, seenEpoch });
    this.#startWaiting();
  }

  /**
   * Installs a gate now, or as soon as there is room, and waits for whoever is at it already.
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
      // Any number at once would take every connection for its first and wait for its second.
      if (this.#rebuilding.size >= rebuildsMax) {
        await Promise.race([...this.#rebuilding, sleep(busyPollMs)]).catch(() => undefined);
        continue;
      }
      const result = (await this.#rebuildOne(skuId, cause)).get(skuId);
      if (result?.kind === 'INSTALLED') return result;
      if (result?.kind === 'NOT_FOUND') throw new Refusal('NOT_FOUND', undefined, { skuId });
      await sleep(busyPollMs);
    }
    throw new Refusal('STOCK_NOT_LOADED', 'The gate is still being installed');
  }

  async #rebuildOne(skuId: bigint, cause: ResyncCause): Promise<Map<bigint, ResyncResult>> {
    const run = this.#start([skuId], cause);
    this.#rebuilding.add(run);
    try {
      return await run;
    } finally {
      this.#rebuilding.delete(run);
    }
  }

  /** Takes no more and waits for those under way. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#waiting.clear();
    await Promise.allSettled(this.#underWay.values());
  }

  #startWaiting(): void {
    while (this.#groups < concurrencyMax) {
      const group = this.#takeGroup();
      if (group === undefined) return;
      const { skuIds, request } = group;
      this.#start(skuIds, request.cause, request).catch((error) => {
        const { cause } = request;
        this.#log.warn({ err: error, cause }, 'gates could not be installed, will try again');
      });
    }
  }

  /** The next gate, or several if they are missing. */
  #takeGroup(): { skuIds: bigint[]; request: Request } | undefined {
    let request: Request | undefined;
    const skuIds: bigint[] = [];
    for (const [skuId, waiting] of this.#waiting) {
      if (this.#underWay.has(skuId)) {
        this.#waiting.delete(skuId);
      } else if (request === undefined || waiting.cause === 'not_loaded') {
        request ??= waiting;
        skuIds.push(skuId);
        this.#waiting.delete(skuId);
        if (request.cause !== 'not_loaded' || skuIds.length >= groupMax) break;
      }
    }
    return request && { skuIds, request };
  }

  /** Without a request nobody asks whether it is needed. */
  #start(
    skuIds: readonly bigint[],
    cause: ResyncCause,
    request?: Request,
  ): Promise<Map<bigint, ResyncResult>> {
    this.#groups += 1;
    const run = this.#run(skuIds, cause, request).finally(() => {
      this.#groups -= 1;
      for (const skuId of skuIds) this.#underWay.delete(skuId);
      if (!this.#closed) this.#startWaiting();
    });
    for (const skuId of skuIds) this.#underWay.set(skuId, run);
    return run;
  }

  async #run(
    skuIds: readonly bigint[],
    cause: ResyncCause,
    request: Request | undefined,
  ): Promise<Map<bigint, ResyncResult>> {
    const startedMs = performance.now();
    const needed = request ? await this.#stillNeeded(skuIds, request) : skuIds;
    for (const skuId of skuIds) if (!needed.includes(skuId)) this.#wanted.settle(skuId);
    const results = await this.#resync(needed);
    let installed = 0;
    for (const [skuId, { kind }] of results) {
      if (kind === 'INSTALLED' || kind === 'NOT_FOUND') this.#wanted.settle(skuId);
      if (kind !== 'INSTALLED') continue;
      installed += 1;
      this.#rest(skuId);
    }
    this.#metrics.resyncs.inc({ cause }, installed);
    const tookMs = Math.round(performance.now() - startedMs);
    if (installed > 0) this.#log.info({ cause, gates: installed, tookMs }, 'gates were installed');
    return results;
  }

  async #resync(skuIds: readonly bigint[]): Promise<Map<bigint, ResyncResult>> {
    try {
      return await resyncSkus(this.#options, skuIds);
    } catch (error) {
      if (skuIds.length <= 1 || error instanceof Refusal) throw error;
      this.#log.warn({ err: error }, 'gates are installed one by one, for one of them is at fault');
    }
    const results = new Map<bigint, ResyncResult>();
    for (const skuId of skuIds) {
      const one = await resyncSkus(this.#options, [skuId]).catch((error) => {
        if (error instanceof Refusal) throw error;
        this.#log.error({ err: error, skuId: String(skuId) }, 'a gate cannot be installed');
      });
      for (const [, result] of one ?? []) results.set(skuId, result);
    }
    return results;
  }

  /** By now another process may have installed them. */
  async #stillNeeded(
    skuIds: readonly bigint[],
    { cause, seenEpoch }: Request,
  ): Promise<readonly bigint[]> {
    if (cause !== 'not_loaded' && seenEpoch === undefined) return skuIds;
    const views = await readGates(this.#options.connection, skuIds);
    return skuIds.filter((_, index) => {
      const view = views[index];
      if (view?.loaded !== true) return true;
      return seenEpoch !== undefined && view.epoch <= seenEpoch;
    });
  }

  #rest(skuId: bigint): void {
    if (this.#restUntilMs.size >= waitingMax) this.#restUntilMs.clear();
    this.#restUntilMs.set(skuId, performance.now() + restMs);
  }
}
