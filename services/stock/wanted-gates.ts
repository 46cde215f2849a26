/** Whoever misses a gate asks again within this, in milliseconds, as the check of the gates does. */
const askedAgainMs = 5_000;
/** Gates remembered at most; beyond it the oldest ones show the lag as well. */
const wantedMax = 10_000;

/** Gates that were asked for and are not installed yet. */
export class WantedGates {
  readonly #wanted = new Map<bigint, { readonly sinceMs: number; lastMs: number }>();
  readonly #isUnseen: (skuId: bigint) => boolean;

  /** @param isUnseen whether nobody can see now that the gate is there: it is being installed, or Redis is away */
  constructor(isUnseen: (skuId: bigint) => boolean) {
    this.#isUnseen = isUnseen;
  }

  /** Somebody misses the gate now. */
  want(skuId: bigint): void {
    const nowMs = performance.now();
    const known = this.#wanted.get(skuId);
    if (known) known.lastMs = nowMs;
    else if (this.#wanted.size < wantedMax) {
      this.#wanted.set(skuId, { sinceMs: nowMs, lastMs: nowMs });
    }
  }

  /** The gate is there, or will never be. */
  settle(skuId: bigint): void {
    this.#wanted.delete(skuId);
  }

  /** How long the oldest has been wanted, in milliseconds; 0 without any. */
  lagMs(): number {
    const nowMs = performance.now();
    let lagMs = 0;
    for (const [skuId, { sinceMs, lastMs }] of this.#wanted) {
      // Another process has installed it, for nobody misses it any more.
      const isOver = nowMs - lastMs > askedAgainMs && !this.#isUnseen(skuId);
      if (isOver) this.#wanted.delete(skuId);
      else lagMs = Math.max(lagMs, nowMs - sinceMs);
    }
    return lagMs;
  }
}
