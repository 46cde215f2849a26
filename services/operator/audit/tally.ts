import type { FoundFlaw } from './look-again.ts';
import type { Flaw, PromiseCheck, PromiseId } from './promise.ts';

/** Examples kept of each kind of flaw: enough to begin with, whatever went wrong. */
const examplesMax = 5;

export interface KindOfFlaw {
  readonly kind: string;
  /** Whether it breaks the promise, or only wants an operator. */
  readonly isFinding: boolean;
  count: number;
  /** The first of them. */
  readonly examples: Flaw[];
}

/** What came of looking after one promise. */
export interface PromiseResult {
  readonly promise: PromiseId;
  readonly title: string;
  /** What was looked at. */
  readonly counted: Record<string, number>;
  breaches: number;
  /** What no promise speaks of and an operator should see. */
  findings: number;
  readonly kinds: KindOfFlaw[];
  /** Why it could not be looked at, or not wholly. */
  couldNotLook?: string;
}

/** Counts what was looked at and what was wrong, by promise. */
export class Tally {
  readonly #results = new Map<PromiseId, PromiseResult>();

  constructor(checks: readonly PromiseCheck[]) {
    for (const { id, title } of checks) {
      const counts = { counted: {}, breaches: 0, findings: 0, kinds: [] };
      this.#results.set(id, { promise: id, title, ...counts });
    }
  }

  get results(): PromiseResult[] {
    return [...this.#results.values()];
  }

  count(promise: PromiseId, what: string, by: number): void {
    const { counted } = this.#of(promise);
    counted[what] = (counted[what] ?? 0) + by;
  }

  add({ promise, ...flaw }: FoundFlaw): void {
    const result = this.#of(promise);
    const isFinding = flaw.isFinding ?? false;
    if (isFinding) result.findings += 1;
    else result.breaches += 1;
    let kind = result.kinds.find((candidate) => candidate.kind === flaw.kind);
    if (kind === undefined) {
      kind = { kind: flaw.kind, isFinding, count: 0, examples: [] };
      result.kinds.push(kind);
    }
    kind.count += 1;
    if (kind.examples.length < examplesMax) kind.examples.push(flaw);
  }

  couldNotLook(promise: PromiseId, sentence: string): void {
    this.#of(promise).couldNotLook ??= sentence;
  }

  #of(promise: PromiseId): PromiseResult {
    return this.#results.get(promise) as PromiseResult;
  }
}
