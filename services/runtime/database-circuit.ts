import type { Gauge } from 'prom-client';
import { type Breaker, createBreaker } from './breaker.ts';
import { Deadline } from './deadline.ts';
import type { Log } from './log.ts';
import { createPool, isDatabaseLost, isDatabaseSlow, query } from './mysql.ts';

/** A server that is there answers within this, however busy it is. */
const probeMs = 400;
/** Probes in a row without an answer that show that a server which is slow is not there at all. */
const probesMax = 3;

export interface DatabaseCircuitOptions {
  /** Names the circuit, such as `stock.ledger`. */
  readonly name: string;
  /** Where the server is, for a connection of its own: probes must not wait for a free one. */
  readonly url: string;
  /** Probes are sent to this database, for a server may be there without it. */
  readonly database: string;
  readonly log: Log;
  readonly state?: Gauge<'name'>;
}

/** The circuit in front of one database. */
export interface DatabaseCircuit {
  /** Whether the server is known to be away. */
  readonly open: boolean;
  /** @throws Refusal DEPENDENCY_DOWN while the circuit is open; else what `call` throws */
  fire<Result>(call: () => Promise<Result>): Promise<Result>;
  stop(): Promise<void>;
}

/**
 * Opens when the server is lost, at once, and closes as soon as it answers again. Only losses count: a
 * refused row, a lock wait, a full pool of ours and a statement that took too long are no losses. But
 * after one that took too long the server is asked whether it is there at all, for a server that hangs
 * takes connections and answers nothing.
 */
export function createDatabaseCircuit(options: DatabaseCircuitOptions): DatabaseCircuit {
  const { name, url, database, log, state } = options;
  const probePool = createPool(url, { database, connectionsMax: 1 });
  const probe = async (): Promise<boolean> => {
    await query(probePool, 'SELECT 1', [], { deadline: Deadline.after(probeMs) });
    return true;
  };
  const breaker: Breaker = createBreaker({
    ...{ name, log, probe, isConnectionLoss: isDatabaseLost },
    ...(state ? { state } : {}),
  });
  let looking = false;

  /** A single loss may be that of one connection; a server that cannot be reached now is away. */
  async function look(error: unknown): Promise<void> {
    if (looking || breaker.open) return;
    looking = true;
    try {
      const probes = isDatabaseLost(error) ? 1 : probesMax;
      for (let tried = 0; tried < probes; tried += 1) {
        const answers = await probe().catch(() => false);
        if (answers) return;
      }
      breaker.trip();
    } finally {
      looking = false;
    }
  }

  return {
    get open() {
      return breaker.open;
    },
    async fire(call) {
      // Errors that say nothing about the server pass by the circuit as results.
      const outcome = await breaker.fire(async () => {
        try {
          return { result: await call() };
        } catch (error) {
          const lost = isDatabaseLost(error);
          if (lost || isDatabaseSlow(error)) void look(error);
          if (lost) throw error;
          return { error };
        }
      });
      if ('error' in outcome) throw outcome.error;
      return outcome.result;
    },
    async stop() {
      breaker.stop();
      await probePool.end();
    },
  };
}
