import type { Gauge } from 'prom-client';
import { type Breaker, createBreaker } from '../runtime/breaker.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { mysqlErrno, type Pool, query } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';

/** A caller with less time left than this says nothing about the server by running out of it. */
const fairBudgetMs = 500;
const probeDeadlineMs = 1_000;
/** Shutting down, read-only, running with an option that forbids writing. */
const lostServerErrnos = new Set([1053, 1290, 1836]);

/**
 * The circuit in front of the ledger's posts. While it is open no order is let through a gate: its
 * units would only wait there to be fenced.
 */
export interface LedgerBreaker {
  readonly open: boolean;
  /** @throws Refusal DEPENDENCY_DOWN while the circuit is open; else what `call` throws */
  fire<Result>(call: () => Promise<Result>, deadline: Deadline): Promise<Result>;
  stop(): void;
}

export function createLedgerBreaker(
  pool: Pool,
  { log, state }: { readonly log: Log; readonly state: Gauge<'name'> },
): LedgerBreaker {
  const breaker: Breaker = createBreaker({
    name: 'stock.ledger',
    log,
    state,
    isConnectionLoss: () => true,
    probe: async () => {
      await query(pool, 'SELECT 1', [], { deadline: Deadline.after(probeDeadlineMs) });
      return true;
    },
  });
  return {
    get open() {
      return breaker.open;
    },
    async fire(call, deadline) {
      const hasty = deadline.leftMs() < fairBudgetMs;
      // Errors that say nothing about the server pass by the circuit as results.
      const outcome = await breaker.fire(async () => {
        try {
          return { result: await call() };
        } catch (error) {
          const lost = isServerLost(error) && !(hasty && deadline.passed);
          if (lost) throw error;
          return { error };
        }
      });
      if ('error' in outcome) throw outcome.error;
      return outcome.result;
    },
    stop: () => breaker.stop(),
  };
}

function isServerLost(error: unknown): boolean {
  if (error instanceof Refusal) return true;
  return lostServerErrnos.has(mysqlErrno(error) ?? 0);
}
