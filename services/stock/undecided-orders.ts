/** Orders whose existence is not decided yet, asked for again and again, some at a time and in turn. */
export class UndecidedOrders {
  readonly #max: number;
  /** Ascending. */
  #orderIds: bigint[] = [];
  /** Behind which one to go on. */
  #askedUpTo = 0n;

  /** @param max how many are remembered; with more of them nothing new is looked at */
  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#orderIds.length;
  }

  get full(): boolean {
    return this.#orderIds.length >= this.#max;
  }

  /** The oldest of them; the sweep's cursor stays before it. */
  get oldest(): bigint | undefined {
    return this.#orderIds[0];
  }

  /** The next ones to ask for, ascending; from the start again behind the last. */
  next(max: number): bigint[] {
    let from = this.#orderIds.findIndex((orderId) => orderId > this.#askedUpTo);
    if (from < 0) from = 0;
    const some = this.#orderIds.slice(from, from + max);
    this.#askedUpTo = some.at(-1) ?? 0n;
    return some;
  }

  /** Replaces what was asked for by what is still undecided of it. */
  update(asked: readonly bigint[], stillUndecided: readonly bigint[]): void {
    const gone = new Set(asked);
    const kept = this.#orderIds.filter((orderId) => !gone.has(orderId));
    this.#orderIds = [...kept, ...stillUndecided].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  }

  clear(): void {
    this.#orderIds = [];
    this.#askedUpTo = 0n;
  }
}
