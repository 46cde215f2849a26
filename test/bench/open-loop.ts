import type { Recorder } from './recorder.ts';

/** One order of the load: which it is, and when it was due. */
export interface Arrival {
  readonly number: number;
  /** `performance.now()` at which it was due; its latency counts from here. */
  readonly dueMs: number;
}

/** Something that orders are sent to. Every accepted arrival is recorded once, in bounded time. */
export interface Target {
  /** Sends an order or queues it; false if too many are outstanding already. */
  offer(arrival: Arrival): boolean;
  /** Called after the arrivals of one tick. */
  flush(nowMs: number): void;
  close(): Promise<void>;
}

export interface LoadOptions {
  readonly target: Target;
  readonly recorder: Recorder;
  /** Orders per second. */
  readonly rate: number;
  readonly seconds: number;
}

export interface Load {
  /** Numbers of the first order and behind the last one. */
  readonly from: number;
  readonly to: number;
  /** Orders not answered half-way and at the end: a growing backlog means the rate is not held. */
  readonly backlogHalfway: number;
  readonly backlogAtEnd: number;
}

const tickMs = 1;
/** How long answers are waited for at most; longer than any deadline of a target. */
const drainMs = 15_000;

/**
 * Offers orders on a fixed schedule, whatever the answers. If this process is late, what is overdue
 * goes at once and its latency still counts from its own moment. Returns when all are answered.
 */
export async function offerLoad({ target, recorder, rate, seconds }: LoadOptions): Promise<Load> {
  const from = recorder.count;
  const total = Math.round(rate * seconds);
  const startMs = performance.now();
  let offered = 0;
  let backlogHalfway: number | undefined;
  while (offered < total) {
    const nowMs = performance.now();
    const due = Math.min(total, Math.floor(((nowMs - startMs) * rate) / 1_000));
    for (; offered < due; offered += 1) {
      const number = recorder.next();
      const arrival = { number, dueMs: startMs + (offered * 1_000) / rate };
      if (!target.offer(arrival)) recorder.notSent(number);
    }
    target.flush(nowMs);
    if (offered >= total / 2) backlogHalfway ??= recorder.outstanding;
    await new Promise((resolve) => setTimeout(resolve, tickMs));
  }
  const backlogAtEnd = recorder.outstanding;
  const endMs = performance.now() + drainMs;
  while (recorder.outstanding > 0 && performance.now() < endMs) {
    target.flush(performance.now());
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const to = recorder.count;
  return { from, to, backlogHalfway: backlogHalfway ?? 0, backlogAtEnd };
}
