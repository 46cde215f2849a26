import { type OpenConnection, rests } from './mysql-connection.ts';

/** A connection that rested longer may be dead without a sign: the server is asked before it is lent. */
const restMsMax = 5_000;
const checkEveryMs = 1_000;
/** A server that is there answers a ping within this, however busy it is. */
const answerMsMax = 1_000;

/** A connection of a pool. */
export interface Pooled extends OpenConnection {
  state: 'idle' | 'lent' | 'checked' | 'gone';
  /** When the server was last known to answer, on the monotonic clock. */
  answeredAtMs: number;
}

/** Connections that nobody uses now; those that have rested for seconds are looked at one by one. */
export interface IdleConnections {
  put(pooled: Pooled): void;
  /** The one that was used last, and that is known to be alive; undefined if there is none. */
  take(): Pooled | undefined;
  delete(pooled: Pooled): void;
  /** Looks at all of them now, because another one was dead. */
  doubt(): void;
  stop(): void;
}

/** @param looked is told of each look; nobody is lent a connection meanwhile, and it is not idle any more */
export function createIdleConnections(
  looked: (pooled: Pooled, isAlive: boolean) => void,
): IdleConnections {
  const idle: Pooled[] = [];
  const timer = setInterval(lookAtRested, checkEveryMs).unref();

  function lookAtRested(): void {
    const now = performance.now();
    for (const pooled of [...idle]) {
      const restMs = pooled.session.endsSoon ? checkEveryMs : restMsMax;
      if (now - pooled.answeredAtMs > restMs) void look(pooled);
    }
  }

  async function look(pooled: Pooled): Promise<void> {
    idle.splice(idle.indexOf(pooled), 1);
    pooled.state = 'checked';
    const isAlive = await rests(pooled, answerMsMax);
    if (isAlive) pooled.answeredAtMs = performance.now();
    looked(pooled, isAlive);
  }

  return {
    put(pooled) {
      pooled.state = 'idle';
      idle.push(pooled);
    },
    take() {
      for (;;) {
        const pooled = idle.at(-1);
        if (pooled === undefined) return undefined;
        // Nobody has looked for so long only if this process stood still.
        const isDoubtful = performance.now() - pooled.answeredAtMs > restMsMax + checkEveryMs;
        if (!isDoubtful) return idle.pop();
        void look(pooled);
      }
    },
    delete(pooled) {
      const index = idle.indexOf(pooled);
      if (index >= 0) idle.splice(index, 1);
    },
    doubt() {
      for (const pooled of [...idle]) void look(pooled);
    },
    stop: () => clearInterval(timer),
  };
}
