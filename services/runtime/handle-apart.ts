import { blameOf, refusesToWrite } from './blame.ts';
import { Deadline } from './deadline.ts';
import { NotTried, SomeFailed } from './some-failed.ts';

/** Entries that fail together are cut into so many parts: one bad one in 500 is found with three cuts. */
const partsMax = 8;

/** What became of entries that were handled. Those that are in neither list took effect. */
export interface ApartOutcome<Entry> {
  /** What each threw that failed by itself. */
  readonly failed: ReadonlyMap<Entry, unknown>;
  /** No turn came to these, and nothing is known of them. */
  readonly untried: readonly Entry[];
  /** Why no turn came to them, if the database is why. */
  readonly away?: unknown;
}

/** Carries out some entries: all of them, or none that a repetition would not mend. */
export type Work<Entry> = (entries: Entry[], deadline: Deadline) => Promise<void>;

export interface ApartBounds {
  /** What the first call may take, which carries all entries. */
  readonly wholeMs: number;
  /** What each further call may take. */
  readonly partMs: number;
  /** No further call begins so long after the first. */
  readonly searchMs: number;
}

/**
 * Carries out entries together, and those that fail together in ever smaller parts, so that one bad
 * entry costs a few calls, one after the other, and harms no other. Work that knows which of its entries
 * failed throws `SomeFailed` and is believed. A failure that may be the database's is looked into only
 * if the database serves another entry meanwhile.
 */
export class HandleApart<Entry> {
  readonly #work: Work<Entry>;
  /** Took effect before, so that its repetition shows whether the database serves anybody. */
  #proven: Entry | undefined;

  constructor(work: Work<Entry>) {
    this.#work = work;
  }

  /** Never throws. */
  async handle(entries: readonly Entry[], bounds: ApartBounds): Promise<ApartOutcome<Entry>> {
    const outcome = new Outcome<Entry>();
    const error = entries.length > 0 ? await this.#call(entries, bounds.wholeMs) : undefined;
    if (error === undefined) return outcome;
    if (error instanceof SomeFailed || entries.length === 1) {
      outcome.add(entries, error);
      return outcome;
    }
    let rest = entries;
    if (blameOf(error) === 'database') {
      const { done, away } = await this.#look(error, entries, bounds);
      if (away !== undefined) return { failed: new Map(), untried: entries, away };
      rest = entries.filter((entry) => entry !== done);
    }
    await this.#search(rest, bounds, outcome);
    return outcome;
  }

  /** Whether the database serves an entry that took effect before; no if there is none. Never throws. */
  async servesOthers(error: unknown, { partMs }: ApartBounds): Promise<boolean> {
    if (this.#proven === undefined || refusesToWrite(error)) return false;
    return (await this.#call([this.#proven], partMs)) === undefined;
  }

  /** Looks with one entry whether the database serves anybody: one that is known to be good, else any. */
  async #look(
    error: unknown,
    entries: readonly Entry[],
    { partMs }: ApartBounds,
  ): Promise<{ readonly done?: Entry; readonly away?: unknown }> {
    if (this.#proven !== undefined && !refusesToWrite(error)) {
      const again = await this.#call([this.#proven], partMs);
      if (again === undefined) return {};
      if (blameOf(again) === 'database') return { away: again };
      this.#proven = undefined;
    }
    // Another one each time, for this one may be the bad one.
    const sample = entries[Math.floor(Math.random() * entries.length)] as Entry;
    const alone = await this.#call([sample], partMs);
    if (alone === undefined) return { done: sample };
    return blameOf(alone) === 'database' ? { away: alone } : {};
  }

  /** Depth first, so that what is bad is known early; each part is one call. */
  async #search(
    entries: readonly Entry[],
    { partMs, searchMs }: ApartBounds,
    outcome: Outcome<Entry>,
  ): Promise<void> {
    const patience = Deadline.after(searchMs);
    const parts = inParts(entries);
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
      if (patience.passed) {
        outcome.untried.push(...part);
        continue;
      }
      const error = await this.#call(part, partMs);
      if (error === undefined) continue;
      if (error instanceof SomeFailed || part.length === 1) outcome.add(part, error);
      else parts.unshift(...inParts(part));
    }
  }

  /** One call of the work; answers what it threw. */
  async #call(entries: readonly Entry[], callMs: number): Promise<unknown> {
    try {
      await this.#work([...entries], Deadline.after(callMs));
      this.#proven = entries[0];
      return undefined;
    } catch (error) {
      if (error instanceof SomeFailed) {
        this.#proven = entries.find((_, at) => !error.failures.has(at)) ?? this.#proven;
      }
      return error ?? new Error('it failed without a reason');
    }
  }
}

class Outcome<Entry> implements ApartOutcome<Entry> {
  readonly failed = new Map<Entry, unknown>();
  readonly untried: Entry[] = [];
  away: unknown;

  /** Notes the failure of one entry, or the failures that are named. */
  add(entries: readonly Entry[], error: unknown): void {
    const failures = error instanceof SomeFailed ? error.failures : new Map([[0, error]]);
    for (const [at, failure] of failures) {
      const entry = entries[at] as Entry;
      if (failure instanceof NotTried) {
        this.untried.push(entry);
        this.away ??= failure.cause;
      } else {
        this.failed.set(entry, failure);
      }
    }
  }
}

function inParts<Entry>(entries: readonly Entry[]): (readonly Entry[])[] {
  const length = Math.max(1, Math.ceil(entries.length / partsMax));
  const parts: (readonly Entry[])[] = [];
  for (let from = 0; from < entries.length; from += length) {
    parts.push(entries.slice(from, from + length));
  }
  return parts;
}
