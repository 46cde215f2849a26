import type { Counter, Histogram } from 'prom-client';
import { Deadline } from './deadline.ts';
import type { Metrics } from './metrics.ts';
import { Refusal } from './refusals.ts';

/** How often waiting callers are compared with their deadlines, while any waits. */
const deadlineCheckMs = 20;
/** A batch that takes longer holds up nobody who waits behind it. */
const patienceMs = 100;

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
  /** Entries waiting at most, in each lane; one more is refused as OVERLOADED. */
  readonly queueDepthMax: number;
  /** Entries with different keys never share a batch; without it there is one lane. */
  readonly keyOf?: (entry: In) => string | number | bigint;
  /** Lanes at most; an idle lane is dropped. */
  readonly lanesMax?: number;
  /** What a caller is told whose deadline passes while its batch is under way. */
  readonly afterSend?: 'OUTCOME_UNKNOWN' | 'OVERLOADED' | 'DEPENDENCY_DOWN';
  /** Carries out one batch; answers one result or error for each entry, in their order. */
  readonly run: (entries: In[], context: BatchContext) => Promise<readonly (Out | Error)[]>;
  readonly metrics?: BatcherMetrics;
}

export interface BatchContext {
  /** The latest deadline in the batch: nobody waits longer. */
  readonly deadline: Deadline;
}

export interface BatcherMetrics {
  readonly entries: Histogram<'hop'>;
  readonly queueAge: Histogram<'hop'>;
  readonly dropped: Counter<'hop'>;
}

/** The metrics that all batchers of a process share. */
export function createBatcherMetrics(metrics: Metrics): BatcherMetrics {
  return {
    entries: metrics.histogram(
      'batch_entries',
      'Entries in a batch, by hop.',
      [1, 2, 5, 10, 25, 50, 100, 250, 500],
      ['hop'],
    ),
    queueAge: metrics.histogram(
      'batch_queue_age_seconds',
      'How long the oldest entry of a batch had waited, by hop.',
      [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5],
      ['hop'],
    ),
    dropped: metrics.counter(
      'batch_dropped_total',
      'Entries whose time ran out while they waited, by hop.',
      ['hop'],
    ),
  };
}

interface Waiting<In, Out> {
  readonly entry: In;
  readonly bytes: number;
  readonly deadline: Deadline;
  readonly sinceMs: number;
  readonly resolve: (out: Out) => void;
  readonly reject: (error: Error) => void;
}

interface Lane<In, Out> {
  readonly key: string | number | bigint;
  readonly queue: Waiting<In, Out>[];
  readonly underWay: Set<Waiting<In, Out>[]>;
  scheduled: boolean;
}

/**
 * Natural batching: at most `inFlightMax` batches are under way; what arrives meanwhile waits and
 * goes as the next batch. There is no timer to wait for company, so an idle hop costs one call.
 */
export class Batcher<In, Out> {
  readonly #options: BatcherOptions<In, Out>;
  readonly #lanes = new Map<string | number | bigint, Lane<In, Out>>();
  #deadlineTimer: NodeJS.Timeout | undefined;
  #closed = false;
  #onIdle: (() => void) | undefined;

  constructor(options: BatcherOptions<In, Out>) {
    this.#options = options;
  }

  /** Entries that wait or are under way, over all lanes. */
  get size(): number {
    let size = 0;
    for (const lane of this.#lanes.values()) {
      size += lane.queue.length;
      for (const batch of lane.underWay) size += batch.length;
    }
    return size;
  }

  /**
   * Adds one entry to the next batch of its lane.
   *
   * @throws Refusal OVERLOADED if the queue is full or the deadline passed before the entry was
   *   sent; `afterSend` if it passed later; whatever `run` answered for the entry
   */
  add(entry: In, deadline: Deadline): Promise<Out> {
    const lane = this.#laneOf(entry);
    if (lane === undefined || lane.queue.length >= this.#options.queueDepthMax) {
      return Promise.reject(new Refusal('OVERLOADED'));
    }
    const bytes = this.#options.sizeOf?.(entry) ?? 0;
    return new Promise((resolve, reject) => {
      lane.queue.push({ entry, bytes, deadline, sinceMs: performance.now(), resolve, reject });
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

  #laneOf(entry: In): Lane<In, Out> | undefined {
    if (this.#closed) return undefined;
    const key = this.#options.keyOf?.(entry) ?? '';
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      if (this.#lanes.size >= (this.#options.lanesMax ?? 10_000)) return undefined;
      lane = { key, queue: [], underWay: new Set(), scheduled: false };
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  /** Sends at the end of this turn of the event loop, so that what arrives together goes together. */
  #schedule(lane: Lane<In, Out>): void {
    if (lane.scheduled || !this.#mayGo(lane)) return;
    lane.scheduled = true;
    setImmediate(() => {
      lane.scheduled = false;
      while (lane.queue.length > 0 && this.#mayGo(lane)) {
        const batch = this.#takeBatch(lane);
        if (batch.length > 0) void this.#send(lane, batch);
      }
      this.#dropIfIdle(lane);
    });
  }

  #mayGo({ queue, underWay }: Lane<In, Out>): boolean {
    const { inFlightMax, besideMin = 1 } = this.#options;
    if (underWay.size === 0) return true;
    if (underWay.size >= inFlightMax) return false;
    return queue.length >= besideMin || (queue[0]?.sinceMs ?? 0) <= performance.now() - patienceMs;
  }

  #takeBatch(lane: Lane<In, Out>): Waiting<In, Out>[] {
    const { entriesMax, bytesMax = Number.POSITIVE_INFINITY } = this.#options;
    const nowMs = performance.now();
    const batch: Waiting<In, Out>[] = [];
    let bytes = 0;
    let taken = 0;
    for (const waiting of lane.queue) {
      if (batch.length >= entriesMax) break;
      if (batch.length > 0 && bytes + waiting.bytes > bytesMax) break;
      taken += 1;
      if (waiting.deadline.atMs <= nowMs) {
        this.#drop(waiting);
        continue;
      }
      bytes += waiting.bytes;
      batch.push(waiting);
    }
    lane.queue.splice(0, taken);
    return batch;
  }

  async #send(lane: Lane<In, Out>, batch: Waiting<In, Out>[]): Promise<void> {
    const { name, run, metrics } = this.#options;
    lane.underWay.add(batch);
    metrics?.entries.observe({ hop: name }, batch.length);
    const oldestMs = batch[0]?.sinceMs ?? performance.now();
    metrics?.queueAge.observe({ hop: name }, (performance.now() - oldestMs) / 1_000);
    try {
      const deadline = Deadline.latest(batch.map((waiting) => waiting.deadline));
      const results = await run(
        batch.map((waiting) => waiting.entry),
        { deadline },
      );
      if (results.length !== batch.length) {
        throw new Error(`${name}: ${results.length} results for ${batch.length} entries`);
      }
      for (const [index, waiting] of batch.entries()) {
        const result = results[index] as Out | Error;
        if (result instanceof Error) waiting.reject(result);
        else waiting.resolve(result);
      }
    } catch (error) {
      const cause = error instanceof Error ? error : new Error(String(error));
      for (const waiting of batch) waiting.reject(cause);
    } finally {
      lane.underWay.delete(batch);
      if (lane.queue.length > 0) this.#schedule(lane);
      else this.#dropIfIdle(lane);
    }
  }

  #dropIfIdle(lane: Lane<In, Out>): void {
    if (lane.queue.length > 0 || lane.underWay.size > 0 || lane.scheduled) return;
    this.#lanes.delete(lane.key);
    if (this.#lanes.size > 0) return;
    clearInterval(this.#deadlineTimer);
    this.#deadlineTimer = undefined;
    this.#onIdle?.();
  }

  /** Answers callers whose time is over; their entries may still take effect if they were sent. */
  #checkDeadlines(): void {
    const nowMs = performance.now();
    const { afterSend = 'OUTCOME_UNKNOWN' } = this.#options;
    for (const lane of this.#lanes.values()) {
      const expired = lane.queue.filter((waiting) => waiting.deadline.atMs <= nowMs);
      if (expired.length > 0) {
        const left = lane.queue.filter((waiting) => waiting.deadline.atMs > nowMs);
        lane.queue.splice(0, lane.queue.length, ...left);
        for (const waiting of expired) this.#drop(waiting);
      }
      if (lane.queue.length > 0) this.#schedule(lane);
      for (const batch of lane.underWay) {
        for (const waiting of batch) {
          if (waiting.deadline.atMs <= nowMs) waiting.reject(new Refusal(afterSend));
        }
      }
    }
  }

  #drop(waiting: Waiting<In, Out>): void {
    this.#options.metrics?.dropped.inc({ hop: this.#options.name });
    waiting.reject(new Refusal('OVERLOADED', 'The time ran out before the work began'));
  }
}
