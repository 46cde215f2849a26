/** Callers who wait for a thing, first come, first served; each only for so long. */
export interface Waiters<Thing> {
  readonly size: number;
  /** @throws what `fail` is called with, or what `whyLate` answers when the time is over */
  wait(ms: number, whyLate: () => Error): Promise<Thing>;
  /** Gives the thing to the first of them; false if nobody waits. */
  give(thing: Thing): boolean;
  /** Has the first of them fail. */
  fail(error: Error): void;
}

interface Waiter<Thing> {
  take(thing: Thing): void;
  fail(error: Error): void;
}

export function createWaiters<Thing>(): Waiters<Thing> {
  const waiters: Waiter<Thing>[] = [];
  return {
    get size() {
      return waiters.length;
    },
    wait: (ms, whyLate) =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          waiters.splice(waiters.indexOf(waiter), 1);
          reject(whyLate());
        }, ms);
        const waiter: Waiter<Thing> = {
          take(thing) {
            clearTimeout(timer);
            resolve(thing);
          },
          fail(error) {
            clearTimeout(timer);
            reject(error);
          },
        };
        waiters.push(waiter);
      }),
    give(thing) {
      const waiter = waiters.shift();
      waiter?.take(thing);
      return waiter !== undefined;
    },
    fail: (error) => waiters.shift()?.fail(error),
  };
}
