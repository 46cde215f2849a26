import { messageOf } from './failure.ts';
import { diedFailure, type ManagedProcess } from './process.ts';

/** Stopped in this order: nobody loses a server that it still needs to finish its work. Names not listed come first. */
const stopOrder = [
  ...['edge', 'simulator', 'order', 'payment', 'stock', 'events', 'mail'],
  ...['kafka', 'mariadb', 'redis'],
];

export type Supervisor = {
  /** Aborted by stop(): a start that is under way gives up. */
  readonly signal: AbortSignal;
  /** Rejects with a Failure when a supervised process ends although nobody stopped it. Never resolves. */
  readonly failed: Promise<never>;
  /** Takes a process over as soon as its start is done. */
  start<P extends ManagedProcess>(starting: Promise<P>): Promise<P>;
  /** What runs now, servers included. */
  running(): readonly ManagedProcess[];
  /** Ends starts under way, then stops everything, one after the other. May be called twice; both wait for the same. */
  stop(say: (line: string) => void): Promise<void>;
  /** SIGKILL to everything, at once and synchronously, for a person who does not want to wait. */
  killAll(): void;
};

/** A process's place in the order of stopping. */
export function stopRank(name: string): number {
  return stopOrder.indexOf(name);
}

/** Holds the processes of one stack: sees the first one that dies and stops them in order. */
export function createSupervisor(): Supervisor {
  const interrupted = new AbortController();
  const children = new Set<ManagedProcess>();
  const starting = new Set<Promise<unknown>>();
  const failed = Promise.withResolvers<never>();
  // Somebody who only stops the stack need not look at it.
  failed.promise.catch(() => {});
  let stopping: Promise<void> | undefined;

  const supervise = (child: ManagedProcess): void => {
    children.add(child);
    void child.exited.then(async () => {
      children.delete(child);
      if (!interrupted.signal.aborted) failed.reject(await diedFailure(child));
    });
  };

  const stopAll = async (say: (line: string) => void): Promise<void> => {
    interrupted.abort();
    await Promise.allSettled(starting);
    for (const child of [...children].sort((a, b) => stopRank(a.name) - stopRank(b.name))) {
      const start = performance.now();
      try {
        await child.stop();
        say(`${child.name} stopped (${((performance.now() - start) / 1000).toFixed(1)} s)`);
      } catch (error) {
        // The others are to be stopped all the same.
        say(messageOf(error));
      }
    }
  };

  return {
    signal: interrupted.signal,
    failed: failed.promise,
    running: () => [...children],
    async start(work) {
      starting.add(work);
      try {
        const child = await work;
        supervise(child);
        return child;
      } finally {
        starting.delete(work);
      }
    },
    stop(say) {
      stopping ??= stopAll(say);
      return stopping;
    },
    killAll() {
      interrupted.abort();
      for (const child of children) void child.kill();
    },
  };
}
