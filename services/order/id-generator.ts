import { slotCount } from '../../db/order/slot-map.ts';
import { Refusal } from '../runtime/refusals.ts';
import { composeOrderId, sequenceCount } from './order-id.ts';

/** The right to make ids under a worker number; ids inside its bounds are this process's alone. */
export interface WorkerLease {
  readonly workerId: number;
  /** Ids may be made until this moment of the monotonic clock (milliseconds). */
  readonly validUntilMs: number;
  /** Times inside ids lie above this (milliseconds since 1970): an earlier holder may have used those below. */
  readonly floorMs: number;
  /** Times inside ids are at most this; stored in MySQL before it is used. */
  readonly highWaterMs: number;
}

export interface IdClock {
  /** Milliseconds since 1970; may jump in either direction. */
  readonly wallMs: () => number;
  /** Milliseconds that only go forward, also while the process is stopped. */
  readonly monotonicMs: () => number;
}

export const hostClock: IdClock = { wallMs: Date.now, monotonicMs: () => performance.now() };

/**
 * Makes order ids. Every id checks the lease: a process that was stopped past its lease makes none,
 * and the time inside an id stays within the lease's bounds, which no other holder can use.
 */
export class OrderIdGenerator {
  readonly #lease: () => WorkerLease | undefined;
  readonly #clock: IdClock;
  /** Per slot, the time inside its newest id and that id's sequence number. */
  readonly #lastMs = new Float64Array(slotCount);
  readonly #lastSequence = new Uint8Array(slotCount);
  /** The latest time seen: when the clock goes back, ids go on from here. */
  #latestMs = 0;
  #usedMs = 0;

  constructor(lease: () => WorkerLease | undefined, clock: IdClock = hostClock) {
    this.#lease = lease;
    this.#clock = clock;
  }

  /** The greatest time inside any id made so far; 0 before the first. */
  get usedMs(): number {
    return this.#usedMs;
  }

  /** @throws Refusal DEPENDENCY_DOWN while there is no valid lease, or the clock left its bounds */
  next(slot: number): bigint {
    const lease = this.#lease();
    if (lease === undefined || this.#clock.monotonicMs() >= lease.validUntilMs) {
      throw new Refusal('DEPENDENCY_DOWN', 'No worker number is leased to this process');
    }
    const nowMs = Math.max(Math.floor(this.#clock.wallMs()), this.#latestMs, lease.floorMs + 1);
    let timeMs = nowMs;
    let sequence = 0;
    const lastMs = this.#lastMs[slot] ?? 0;
    if (lastMs >= timeMs) {
      timeMs = lastMs;
      sequence = (this.#lastSequence[slot] ?? 0) + 1;
      if (sequence >= sequenceCount) {
        timeMs += 1;
        sequence = 0;
      }
    }
    if (timeMs > lease.highWaterMs) {
      throw new Refusal('DEPENDENCY_DOWN', 'The clock is ahead of the leased worker number');
    }
    this.#latestMs = nowMs;
    this.#lastMs[slot] = timeMs;
    this.#lastSequence[slot] = sequence;
    if (timeMs > this.#usedMs) this.#usedMs = timeMs;
    return composeOrderId(timeMs, slot, lease.workerId, sequence);
  }
}
