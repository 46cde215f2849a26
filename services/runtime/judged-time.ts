/** Clocks that differ by more do not tell the same time. Far more than any honest clock is off, or any answer is late. */
export const clockToleranceMs = 2_000;
/** What a clock said longer ago does not count any more. */
const freshMs = 60_000;

/** The host's clock by its name among the witnesses. */
const hostName = 'host';

export interface JudgedTimeOptions {
  /** Milliseconds since 1970 by the host's clock; may jump. Default `Date.now`. */
  readonly wallMs?: () => number;
  /** Milliseconds that only go forward. Default `performance.now`. */
  readonly monotonicMs?: () => number;
  /** The clock that is believed to the millisecond while it agrees with the judgement; default the host's. */
  readonly preferred?: string;
}

interface Sample {
  /** Its clock minus the monotonic one. */
  readonly offsetMs: number;
  readonly atMs: number;
}

/**
 * The time that several clocks agree on: the host's, and those of the servers that were asked. A clock
 * that steps alone is outvoted, at once and for as long as it is wrong; what was judged before, carried
 * on by the monotonic clock, decides between two that disagree. Without a majority and without a
 * judgement from before there is no time: whoever needs one refuses its work.
 */
export class JudgedTime {
  readonly #wallMs: () => number;
  readonly #monotonicMs: () => number;
  readonly #preferred: string;
  readonly #samples = new Map<string, Sample>();
  #offsetMs: number | undefined;

  constructor({ wallMs, monotonicMs, preferred = hostName }: JudgedTimeOptions = {}) {
    this.#wallMs = wallMs ?? Date.now;
    this.#monotonicMs = monotonicMs ?? (() => performance.now());
    this.#preferred = preferred;
  }

  /** Notes what a server's clock says now; by its own name for each server, however many databases it has. */
  observe(witness: string, wallMs: number): void {
    const atMs = this.#monotonicMs();
    this.#samples.set(witness, { offsetMs: wallMs - atMs, atMs });
    this.#judge(atMs);
  }

  /** Forgets a clock, such as that of a server which was replaced. */
  forget(witness: string): void {
    this.#samples.delete(witness);
  }

  /** Milliseconds since 1970; undefined while the clocks disagree and nothing was judged before. */
  nowMs(): number | undefined {
    const atMs = this.#monotonicMs();
    this.#judge(atMs);
    return this.#offsetMs === undefined ? undefined : atMs + this.#offsetMs;
  }

  /** `wallMs`, which a clock says now, if that is the time; else the time. Undefined as `nowMs`. */
  corrected(wallMs: number): number | undefined {
    const nowMs = this.nowMs();
    if (nowMs === undefined) return undefined;
    return Math.abs(wallMs - nowMs) <= clockToleranceMs ? wallMs : nowMs;
  }

  /** Clocks that do not tell the time, with how far each is ahead of it in milliseconds. */
  wrongClocks(): Map<string, number> {
    const wrong = new Map<string, number>();
    const atMs = this.#monotonicMs();
    this.#judge(atMs);
    if (this.#offsetMs === undefined) return wrong;
    for (const [name, offsetMs] of this.#votes(atMs)) {
      const offMs = offsetMs - this.#offsetMs;
      if (Math.abs(offMs) > clockToleranceMs) wrong.set(name, Math.round(offMs));
    }
    return wrong;
  }

  #votes(atMs: number): Map<string, number> {
    const votes = new Map([[hostName, this.#wallMs() - atMs]]);
    for (const [name, sample] of this.#samples) {
      if (atMs - sample.atMs <= freshMs) votes.set(name, sample.offsetMs);
    }
    return votes;
  }

  #judge(atMs: number): void {
    const votes = this.#votes(atMs);
    const before = this.#offsetMs;
    const agrees = (a: number, b: number): boolean => Math.abs(a - b) <= clockToleranceMs;
    let best: { supporters: number; offsetMs: number } | undefined;
    for (const offsetMs of votes.values()) {
      let supporters = 0;
      for (const other of votes.values()) if (agrees(offsetMs, other)) supporters += 1;
      // What was judged before breaks a tie, and never outvotes two clocks.
      if (before !== undefined && agrees(offsetMs, before)) supporters += 0.5;
      if (best === undefined || supporters > best.supporters) best = { supporters, offsetMs };
    }
    if (best === undefined) return;
    // One clock alone proves nothing; with a judgement from before it has to agree with that.
    if (best.supporters <= 1) return;
    const preferred = votes.get(this.#preferred);
    this.#offsetMs =
      preferred !== undefined && agrees(preferred, best.offsetMs) ? preferred : best.offsetMs;
  }
}
