/**
 * Some of the entries that were handled together failed, and the others took effect: each of the
 * failures is about its own entry.
 */
export class SomeFailed extends Error {
  /** What was thrown for an entry, by its place among them. */
  readonly failures: ReadonlyMap<number, unknown>;

  constructor(failures: ReadonlyMap<number, unknown>) {
    const [first] = failures.values();
    super(first instanceof Error ? first.message : String(first), { cause: first });
    this.name = 'SomeFailed';
    this.failures = failures;
  }
}

/** An entry failed because no turn came to it, so nothing is known of it: it is tried again. */
export class NotTried extends Error {
  constructor(cause: unknown) {
    super('it was not tried', { cause });
    this.name = 'NotTried';
  }
}
