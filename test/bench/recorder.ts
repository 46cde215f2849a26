import { type RefusalReason, refusalTable } from '../../services/runtime/refusals.ts';

/** What became of one offered order. */
export const outcome = { none: 0, ok: 1, refused: 2, unserved: 3, unknown: 4, notSent: 5 } as const;
export type Outcome = (typeof outcome)[keyof typeof outcome];

/** Refusals that shed load or miss a server: definite, but the system did not do its work. */
const unservedReasons = new Set<string>([
  'OVERLOADED',
  'RATE_LIMITED',
  'STOCK_NOT_LOADED',
  'DEPENDENCY_DOWN',
]);

/** How an answer with a reason counts. A reason outside the catalogue settles nothing. */
export function outcomeOf(reason: string): Outcome {
  if (unservedReasons.has(reason)) return outcome.unserved;
  if (reason === 'OUTCOME_UNKNOWN' || !(reason in refusalTable)) return outcome.unknown;
  return outcome.refused;
}

/**
 * Keeps what became of every order of a scenario, by its number, so that it can be compared with
 * MySQL one by one afterwards. A few bytes an order.
 */
export class Recorder {
  #outcomes = new Uint8Array(1 << 16);
  #orderIds = new BigInt64Array(1 << 16);
  #latenciesMs = new Float32Array(1 << 16);
  #count = 0;
  #settled = 0;
  readonly reasons = new Map<RefusalReason | string, number>();

  /** Numbers the next order. */
  next(): number {
    const number = this.#count;
    this.#count += 1;
    if (number === this.#outcomes.length) this.#grow();
    return number;
  }

  ok(number: number, orderId: bigint, latencyMs: number): void {
    this.#orderIds[number] = orderId;
    this.#settle(number, outcome.ok, latencyMs);
  }

  failed(number: number, reason: string, latencyMs: number): void {
    this.reasons.set(reason, (this.reasons.get(reason) ?? 0) + 1);
    this.#settle(number, outcomeOf(reason), latencyMs);
  }

  notSent(number: number): void {
    this.#settle(number, outcome.notSent, 0);
  }

  /** Orders offered so far. */
  get count(): number {
    return this.#count;
  }

  /** Orders offered and not answered yet. */
  get outstanding(): number {
    return this.#count - this.#settled;
  }

  outcomeAt(number: number): Outcome {
    return (this.#outcomes[number] ?? outcome.none) as Outcome;
  }

  orderIdAt(number: number): bigint {
    return this.#orderIds[number] ?? 0n;
  }

  /** How the orders from one number up to another ended. */
  summary(from: number, to: number): Summary {
    const counts = { none: 0, ok: 0, refused: 0, unserved: 0, unknown: 0, notSent: 0 };
    const names = Object.keys(outcome) as (keyof typeof counts)[];
    const ok: number[] = [];
    const refused: number[] = [];
    const unserved: number[] = [];
    for (let number = from; number < to; number += 1) {
      const at = this.outcomeAt(number);
      counts[names[at] ?? 'none'] += 1;
      if (at === outcome.ok) ok.push(this.#latenciesMs[number] ?? 0);
      else if (at === outcome.refused) refused.push(this.#latenciesMs[number] ?? 0);
      else if (at === outcome.unserved) unserved.push(this.#latenciesMs[number] ?? 0);
    }
    return {
      offered: to - from,
      ...counts,
      okMs: percentiles(ok),
      refusedMs: percentiles(refused),
      unservedMs: percentiles(unserved),
    };
  }

  #settle(number: number, at: Outcome, latencyMs: number): void {
    if (this.#outcomes[number] !== outcome.none) {
      throw new Error(`order ${number} was answered twice`);
    }
    this.#outcomes[number] = at;
    this.#latenciesMs[number] = latencyMs;
    this.#settled += 1;
  }

  #grow(): void {
    const length = this.#outcomes.length * 2;
    const grown = <Values extends { set(from: Values): void }>(
      to: Values,
      from: Values,
    ): Values => {
      to.set(from);
      return to;
    };
    this.#outcomes = grown(new Uint8Array(length), this.#outcomes);
    this.#orderIds = grown(new BigInt64Array(length), this.#orderIds);
    this.#latenciesMs = grown(new Float32Array(length), this.#latenciesMs);
  }
}

export interface Summary {
  readonly offered: number;
  /** Not answered. */
  readonly none: number;
  readonly ok: number;
  /** Business refusals: sold out, limit, … */
  readonly refused: number;
  /** Turned away without being served: overload, a server away. */
  readonly unserved: number;
  readonly unknown: number;
  /** Never sent, because too many were outstanding. */
  readonly notSent: number;
  readonly okMs: Percentiles;
  readonly refusedMs: Percentiles;
  /** How long those who were turned away waited to be told so. */
  readonly unservedMs: Percentiles;
}

/** Milliseconds from the moment an order was due to its answer. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export function percentiles(values: readonly number[]): Percentiles {
  const sorted = Float64Array.from(values).sort();
  const at = (share: number): number => sorted[Math.ceil(sorted.length * share) - 1] ?? Number.NaN;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1) };
}
