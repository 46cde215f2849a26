import type { Log } from './log.ts';

export interface Loop {
  /** Runs the next round now instead of at its time. */
  wake(): void;
  /** Ends the loop after the round under way, whose signal is aborted. */
  stop(): Promise<void>;
}

export interface LoopOptions {
  readonly name: string;
  /** Milliseconds between the end of one round and the start of the next, jittered by ±20 %. */
  readonly intervalMs: number;
  readonly run: (signal: AbortSignal) => Promise<void>;
  readonly log: Log;
}

/** The loops of this process that run, with the moment (`performance.now()`) of their last success. */
const running = new Set<{ readonly name: string; succeededAtMs: number }>();

/** A loop as it is shown by its age. */
export interface ShownLoop {
  /** A round ended well just now. */
  succeeded(): void;
  /** The loop has ended, and is shown no more. */
  ended(): void;
}

/** Shows the age of a loop from now on; for work that repeats itself without `startLoop`. */
export function showLoop(name: string): ShownLoop {
  const loop = { name, succeededAtMs: performance.now() };
  running.add(loop);
  return {
    succeeded() {
      loop.succeededAtMs = performance.now();
    },
    ended: () => running.delete(loop),
  };
}

/**
 * Since when each loop of this process has not ended a round well, in milliseconds, by name; of
 * several loops of one name the oldest counts. A loop that never did counts from its start.
 */
export function loopAgesMs(): Map<string, number> {
  const ages = new Map<string, number>();
  const nowMs = performance.now();
  for (const { name, succeededAtMs } of running) {
    ages.set(name, Math.max(ages.get(name) ?? 0, nowMs - succeededAtMs));
  }
  return ages;
}

/**
 * Runs a background job again and again, never two rounds at once. A failing round is logged when
 * the failure begins and when it ends, not every time, and the next round tries again.
 */
export function startLoop({ name, intervalMs, run, log }: LoopOptions): Loop {
  const abort = new AbortController();
  const shown = showLoop(name);
  let wakeUp: (() => void) | undefined;
  let woken = false;
  let failure: string | undefined;

  async function round(): Promise<void> {
    try {
      await run(abort.signal);
      shown.succeeded();
      if (failure !== undefined) log.info({ loop: name }, 'works again');
      failure = undefined;
    } catch (error) {
      if (abort.signal.aborted) return;
      const text = error instanceof Error ? error.message : String(error);
      if (text !== failure) log.warn({ err: error, loop: name }, 'round failed, will try again');
      failure = text;
    }
  }

  function pause(): Promise<void> {
    if (woken) {
      woken = false;
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, intervalMs * (0.8 + 0.4 * Math.random()));
      wakeUp = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  const done = (async () => {
    while (!abort.signal.aborted) {
      await round();
      if (!abort.signal.aborted) await pause();
      wakeUp = undefined;
    }
  })().finally(() => shown.ended());

  return {
    wake() {
      if (wakeUp) wakeUp();
      else woken = true;
    },
    async stop() {
      abort.abort();
      wakeUp?.();
      await done;
    },
  };
}
