import { BatchLane, type LaneBounds, type Waiting } from './batch-lane.ts';
import type { BatcherMetrics } from './batcher-metrics.ts';
import { Deadline } from './deadline.ts';
import { Refusal } from './refusals.ts';

export { type BatcherMetrics, createBatcherMetrics } from './batcher-metrics.ts';

/** How often waiting callers are compared with their deadlines, while any waits. */
const deadlineCheckMs = 20;
/** A batch that is under way for longer does not keep the next one waiting … */
const slowAfterMsDefault = 1_000;
/** … unless there are so many of them in its lane. Each holds a connection or a stream. */
const slowMaxDefault = 4;
/** No batch works for longer, however patient one of its callers is. */
const runMsMaxDefault = 10_000;

export interface BatcherOptions<In, Out> {
  /** Names the hop in metrics, such as `order_to_stock`. */
  readonly name: string;
  /** Entries in one batch at most. */
  readonly entriesMax: number;
  /** Bytes in one batch at most, as `sizeOf` counts them; a larger single entry goes alone. */
  readonly bytesMax?: number;
  readonly sizeOf?: (entry: In) => number;
  /** Batches under way at most, in each lane. */
  readonly inFlightMax: number;
  /**
   * Entries that must wait before a batch goes beside one that is under way, unless one has waited
   * 100 ms; default 1. Small batches side by side cost more than they save: each has its own calls,
   * statements and commits.
   */
  readonly besideMin?: number;
  /**
   * Milliseconds after which a batch under way no longer counts towards `inFlightMax`, so that one
   * which hangs holds up its own entries alone; default 1,000.
   */
  readonly slowAfterMs?: number;
  /** Batches of a lane that are not counted for being slow, at most; default 4. */
  readonly slowMax?: number;
  /** Milliseconds that one batch may take at most, whatever time its callers have; default 10,000. */
  readonly runMsMax?: number;
  /** Entries waiting at most, in each lane; one more is refused as OVERLOADED. */
  readonly queueDepthMax: number;
  /**
   * Milliseconds of waiting after which the newest entries go first: the old ones would be answered too
   * late anyway, and in order everybody would. Only for hops before anything is done; default never.
   */
  readonly newestFirstAfterMs?: number;
  /** Milliseconds of waiting after which an entry is refused as OVERLOADED; default its deadline. */
  readonly ageMaxMs?: number;
  /** Milliseconds that an entry must have left to be worth beginning; less is refused. Default 0. */
  readonly needMs?: () => number;
  /** Entries with different keys never share a batch; without it there is one lane. */
  readonly keyOf?: (entry: In) => string | number | bigint;
  /** Lanes at most; an idle lane is dropped. */
  readonly lanesMax?: number;
  /** What a caller is told whose deadline passes while its batch is under way. */
  readonly afterSend?: 'OUTCOME_UNKNOWN' | 'OVERLOADED' | 'DEPENDENCY_DOWN';
  /** Carries out one batch; answers one result or error for each entry, in their order. */
  readonly run: (entries: In[], context: BatchContext<Out>) => Promise<readonly (Out | Error)[]>;
  readonly metrics?: BatcherMetrics;
}

export interface BatchContext<Out> {
  /** The latest deadline in the batch, or what one batch may take at most. */
  readonly deadline: Deadline;
  /** Answers one entry before the others are done; what `run` answers for it later is ignored. */
  answer(index: number, result: Out | Error): void;
}

/**
 * Natural batching: at most `inFlightMax` batches are under way; what arrives meanwhile waits and
 * goes as the next batch. There is no timer to wait for company, so an idle hop costs one call.
 */
export class Batcher<In, Out> {
  readonly #options: BatcherOptions<In, Out>;
  readonly #bounds: LaneBounds;
  readonly #lanes = new Map<string | number | bigint, BatchLane<In, Out>>();
  #deadlineTimer: NodeJS.Timeout | undefined;
  #closed = false;
  #onIdle: (() => void) | undefined;

  constructor(options: BatcherOptions<In, Out>) {
    this.#options = options;
    this.#bounds = {
      entriesMax: options.entriesMax,
      bytesMax: options.bytesMax ?? Number.POSITIVE_INFINITY,
      inFlightMax: options.inFlightMax,
      besideMin: options.besideMin ?? 1,
      slowAfterMs: options.slowAfterMs ?? slowAfterMsDefault,
      slowMax: options.slowMax ?? slowMaxDefault,
      newestFirstAfterMs: options.newestFirstAfterMs ?? Number.POSITIVE_INFINITY,
    };
  }

  /** Entries that wait or are under way, over all lanes. */
  get size(): number {
    let size = 0;
    for (const lane of this.#lanes.values()) {
      size += lane.queue.length;
      for (const { entries } of lane.underWay) size += entries.length;
    }
    return size;
  }

  /**
   * How long an entry of a lane that is added now will probably take until it is answered, in
   * milliseconds; 0 for a lane that nothing is known of.
   */
  expectedMs(key: string | number | bigint = ''): number {
    return this.#lanes.get(key)?.expectedMs(performance.now()) ?? 0;
  }

  /**
   * Adds one entry to the next batch of its lane.
   *
   * @throws Refusal OVERLOADED if the queue is full or too little time was left when the entry could
   *   have been sent; `afterSend` if the deadline passed later; whatever `run` answered for the entry
   */
  add(entry: In, deadline: Deadline): Promise<Out> {
    const lane = this.#laneOf(entry);
    if (lane === undefined || lane.queue.length >= this.#options.queueDepthMax) {
      return Promise.reject(new Refusal('OVERLOADED'));
    }
    const bytes = this.#options.sizeOf?.(entry) ?? 0;
    return new Promise((resolve, reject) => {
      const sinceMs = performance.now();
      lane.queue.push({ entry, bytes, deadline, sinceMs, resolve, reject, answered: false });
      this.#schedule(lane);
      this.#deadlineTimer ??= setInterval(() => this.#checkDeadlines(), deadlineCheckMs);
    });
  }

  /** Refuses new entries and resolves when those taken in are answered. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#lanes.size > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    clearInterval(this.#deadlineTimer);
  }

  #laneOf(entry: In): BatchLane<In, Out> | undefined {
    if (this.#closed) return undefined;
    const key = this.#options.keyOf?.(entry) ?? '';
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      if (this.#lanes.size >= (this.#options.lanesMax ?? 10_000)) return undefined;
      lane = new BatchLane(key, this.#bounds);
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  /** Sends at the end of this turn of the event loop, so that what arrives together goes together. */
  #schedule(lane: BatchLane<In, Out>): void {
    if (lane.scheduled || !lane.mayGo(performance.now())) return;
    lane.scheduled = true;
    setImmediate(() => {
      lane.scheduled = false;
      for (;;) {
        const nowMs = performance.now();
        if (lane.queue.length === 0 || !lane.mayGo(nowMs)) break;
        const needMs = this.#options.needMs?.() ?? 0;
        const batch = lane.take(nowMs, needMs, (waiting) => this.#drop(waiting));
        if (batch.length > 0) void this.#send(lane, batch);
      }
      this.#dropIfIdle(lane);
    });
  }

  async #send(lane: BatchLane<In, Out>, entries: Waiting<In, Out>[]): Promise<void> {
    const { name, run, runMsMax = runMsMaxDefault, metrics } = this.#options;
    const nowMs = performance.now();
    const batch = lane.begin(entries, nowMs);
    metrics?.entries.observe({ hop: name }, entries.length);
    const oldestMs = entries[0]?.sinceMs ?? nowMs;
    metrics?.queueAge.observe({ hop: name }, (nowMs - oldestMs) / 1_000);
    let worked = false;
    try {
      const latest = Deadline.latest(entries.map((waiting) => waiting.deadline));
      const results = await run(
        entries.map((waiting) => waiting.entry),
        {
          deadline: latest.min(runMsMax),
          answer: (index, result) => answer(entries[index] as Waiting<In, Out>, result),
        },
      );
      if (results.length !== entries.length) {
        throw new Error(`${name}: ${results.length} results for ${entries.length} entries`);
      }
      worked = results.some((result) => !(result instanceof Error));
      for (const [index, waiting] of entries.entries()) {
        answer(waiting, results[index] as Out | Error);
      }
    } catch (error) {
      const cause = error instanceof Error ? error : new Error(String(error));
      for (const waiting of entries) answer(waiting, cause);
    } finally {
      lane.end(batch, performance.now(), worked);
      if (lane.queue.length > 0) this.#schedule(lane);
      else this.#dropIfIdle(lane);
    }
  }

  #dropIfIdle(lane: BatchLane<In, Out>): void {
    if (!lane.idle) return;
    this.#lanes.delete(lane.key);
    if (this.#lanes.size > 0) return;
    clearInterval(this.#deadlineTimer);
    this.#deadlineTimer = undefined;
    this.#onIdle?.();
  }

  /** Answers callers whose time is over; their entries may still take effect if they were sent. */
  #checkDeadlines(): void {
    const nowMs = performance.now();
    const { afterSend = 'OUTCOME_UNKNOWN', ageMaxMs = Number.POSITIVE_INFINITY } = this.#options;
    for (const lane of this.#lanes.values()) {
      for (const waiting of lane.takeExpired(nowMs, ageMaxMs)) this.#drop(waiting);
      if (lane.queue.length > 0) this.#schedule(lane);
      for (const { entries } of lane.underWay) {
        for (const waiting of entries) {
          if (waiting.answered || waiting.deadline.atMs > nowMs) continue;
          answer(waiting, new Refusal(afterSend));
        }
      }
    }
  }

  #drop(waiting: Waiting<In, Out>): void {
    this.#options.metrics?.dropped.inc({ hop: this.#options.name });
    answer(waiting, new Refusal('OVERLOADED', 'The time ran out before the work began'));
  }
}

/** Answers an entry, once. */
function answer<In, Out>(waiting: Waiting<In, Out>, result: Out | Error): void {
  if (waiting.answered) return;
  waiting.answered = true;
  if (result instanceof Error) waiting.reject(result);
  else waiting.resolve(result);
}
