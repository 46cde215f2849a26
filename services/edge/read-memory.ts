import { isBusinessRefusal, Refusal } from '../runtime/refusals.ts';

/** What the edge shows may be this old, in milliseconds. */
const freshMs = 200;
/**
 * Reads under way at most, of what has been read before and apart from that of what has not: whoever
 * asks for things that do not exist keeps nobody waiting who looks at those that do.
 */
const inFlightMax = 4;
/** A read that could not begin for so long, in milliseconds, is answered as too much. */
const waitMs = 1_000;
/** What is longer is not worth remembering: no key of ours is. */
const keyLengthMax = 256;

export interface ReadMemoryOptions {
  /** Reads what a key stands for. */
  readonly fetch: (key: string) => Promise<string>;
  /** Answers remembered at most; the one that was read longest ago goes first. */
  readonly entriesMax: number;
  /** Keys that wait to be read at most, in each of the two lanes. */
  readonly waitingMax: number;
  /** Milliseconds on a clock that never goes back. */
  readonly nowMs?: () => number;
}

interface Remembered {
  /** What everybody who waits for the read gets. */
  readonly answer: Promise<string>;
  /** When the read began, so that its answer is no older than this; undefined before. */
  sinceMs: number | undefined;
  done: boolean;
}

interface Lane {
  underWay: number;
  readonly queue: (() => Promise<void>)[];
}

/**
 * Answers reads from memory, at most 200 ms old, and with one read for all who ask meanwhile, so that
 * any number of lookers cost the service behind at most some reads for each thing and 200 ms. Nothing is
 * read unless somebody asks. A refusal is an answer and is remembered; a failure is told to those who
 * waited for it, and the next one asks again.
 */
export class ReadMemory {
  readonly #options: ReadMemoryOptions;
  readonly #nowMs: () => number;
  readonly #remembered = new Map<string, Remembered>();
  readonly #known: Lane = { underWay: 0, queue: [] };
  readonly #unknown: Lane = { underWay: 0, queue: [] };

  constructor(options: ReadMemoryOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? (() => performance.now());
  }

  /**
   * The answer for a key.
   *
   * @throws Refusal OVERLOADED if too many keys wait, or this one for too long; or whatever the read threw
   */
  async read(key: string): Promise<string> {
    const before = this.#remembered.get(key);
    if (before && !this.#isStale(before)) return await before.answer;
    const lane = before ? this.#known : this.#unknown;
    if (lane.queue.length >= this.#options.waitingMax) throw new Refusal('OVERLOADED');
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    // A read whose askers are all gone must not end the process.
    promise.catch(() => {});
    const entry: Remembered = { answer: promise, sinceMs: undefined, done: false };
    this.#remember(key, entry);
    const queuedMs = this.#nowMs();
    lane.queue.push(async () => {
      entry.sinceMs = this.#nowMs();
      try {
        if (entry.sinceMs - queuedMs > waitMs) throw new Refusal('OVERLOADED');
        resolve(await this.#options.fetch(key));
      } catch (error) {
        if (!isBusinessRefusal(error)) this.#forget(key, entry);
        reject(error);
      }
      entry.done = true;
      if (key.length > keyLengthMax) this.#forget(key, entry);
    });
    this.#work(lane);
    return await promise;
  }

  #isStale({ done, sinceMs = 0 }: Remembered): boolean {
    return done && sinceMs <= this.#nowMs() - freshMs;
  }

  #work(lane: Lane): void {
    while (lane.underWay < inFlightMax) {
      const read = lane.queue.shift();
      if (read === undefined) return;
      lane.underWay += 1;
      void read().then(() => {
        lane.underWay -= 1;
        this.#work(lane);
      });
    }
  }

  #remember(key: string, entry: Remembered): void {
    this.#remembered.delete(key);
    this.#remembered.set(key, entry);
    if (this.#remembered.size <= this.#options.entriesMax) return;
    const oldest = this.#remembered.keys().next();
    if (!oldest.done) this.#remembered.delete(oldest.value);
  }

  #forget(key: string, entry: Remembered): void {
    if (this.#remembered.get(key) === entry) this.#remembered.delete(key);
  }
}
