/** A failure that no other attempt has followed for so long is not shown any more: the work was done elsewhere. */
const forgetMs = 900_000;
/** Nothing that ends well for so long is as good as a failure. */
const silentMsMax = 30_000;

/** What the attempts at the items of a loop came to lately: whether the loop works is theirs to say. */
export class RecentAttempts {
  #failure: { readonly error: unknown; readonly atMs: number } | undefined;
  #succeededAtMs = performance.now();

  succeeded(): void {
    this.#failure = undefined;
    this.#succeededAtMs = performance.now();
  }

  failed(error: unknown): void {
    this.#failure = { error, atMs: performance.now() };
  }

  /** @throws the last failure, unless an attempt has succeeded since; Error if none does and the oldest one hangs */
  check(oldestMs: number): void {
    const nowMs = performance.now();
    if (this.#failure !== undefined && nowMs - this.#failure.atMs < forgetMs) {
      throw this.#failure.error;
    }
    const silentMs = Math.min(oldestMs, nowMs - this.#succeededAtMs);
    if (silentMs > silentMsMax) throw new Error('no attempt has ended for some time');
  }
}
