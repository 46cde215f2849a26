import type { GateView } from './gate-view.ts';

/** Gate and ledger are read at two moments, so a difference counts only if it stays. */
const restingLooks = 3;
const soldOutLooks = 2;
/** Figures that move say less; they are looked at longer, and then more closely. */
const movingLooks = 10;

/** What the looks so far say: nothing, contradicted for good, or to be looked at more closely. */
export type Verdict = 'none' | 'contradiction' | 'suspect';

interface Seen {
  readonly gate: number;
  readonly ledger: bigint;
  /** Looks at these very figures with nothing pending. */
  readonly looks: number;
  /** Looks in a row at which the gate was too low, or (negative) too high. */
  readonly streak: number;
}

/**
 * Remembers what successive looks at the gates saw. At rest a gate must equal the ledger. During a
 * sale it is behind by what passed it and is not in the ledger yet, which is pending; a gate that is
 * lower than that at every look has lost a credit, one that is always higher has too much.
 */
export class Contradictions {
  readonly #seen = new Map<bigint, Seen>();

  forget(skuId: bigint): void {
    this.#seen.delete(skuId);
  }

  /** Units by which gate and ledger differ if they stand still, else 0. */
  restingDifference(skuId: bigint): number {
    const seen = this.#seen.get(skuId);
    return seen && seen.looks > 1 ? Math.abs(Number(seen.ledger) - seen.gate) : 0;
  }

  look(
    skuId: bigint,
    { available, pendingOrders }: Pick<GateView, 'available' | 'pendingOrders'>,
    ledger: bigint,
  ): Verdict {
    const gate = available ?? 0;
    const behind = Number(ledger) - gate;
    const before = this.#seen.get(skuId);
    // Every pending order has a unit at least.
    const direction = behind > pendingOrders ? 1 : behind < 0 ? -1 : 0;
    if (direction === 0) {
      this.#seen.delete(skuId);
      return 'none';
    }
    const soldOut = pendingOrders === 0 && gate <= 0 && ledger > 0n;
    // A sold-out gate turns everybody away; what the ledger has beside it need not stand still.
    const same = before?.gate === gate && (soldOut || before.ledger === ledger);
    const looks = pendingOrders > 0 ? 0 : same ? before.looks + 1 : 1;
    const goesOn = before !== undefined && Math.sign(before.streak) === direction;
    const streak = (goesOn ? before.streak : 0) + direction;
    const contradicts = looks >= (soldOut ? soldOutLooks : restingLooks);
    const suspect = Math.abs(streak) >= movingLooks;
    if (contradicts || suspect) this.#seen.delete(skuId);
    else this.#seen.set(skuId, { gate, ledger, looks, streak });
    return contradicts ? 'contradiction' : suspect ? 'suspect' : 'none';
  }
}
