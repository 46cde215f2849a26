/** Orders of one lane share calls to the order service; `all` is for everybody while order answers. */
export type Lane = 'all' | number;

/** Bits below the slot in an order's id: 6 of its worker and 6 of its sequence. */
const slotShift = 12n;
/** Neighbouring slots live in different databases: so many lanes keep up to as many databases apart. */
const lanes = 16n;
/** A lane that failed stays apart for so long after its last failure. */
const apartMs = 10_000;

/**
 * Keeps orders that the order service does not answer now, be it that their database is slow or away, out of the calls of
 * the others: a call is answered when the last of its orders is.
 */
export class OrderLanes {
  readonly #apartUntilMs = new Map<number, number>();

  /** @param again whether a call of the order has failed before */
  of(orderId: bigint, again: boolean): Lane {
    const lane = laneOf(orderId);
    const isApart = (this.#apartUntilMs.get(lane) ?? 0) > performance.now();
    return again || isApart ? lane : 'all';
  }

  answered(orderId: bigint): void {
    this.#apartUntilMs.delete(laneOf(orderId));
  }

  failed(orderId: bigint): void {
    this.#apartUntilMs.set(laneOf(orderId), performance.now() + apartMs);
  }
}

function laneOf(orderId: bigint): number {
  return Number((orderId >> slotShift) % lanes);
}
