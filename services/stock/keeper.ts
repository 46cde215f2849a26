import { randomUUID } from 'node:crypto';
import type { ResultSetHeader } from 'mysql2/promise';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { type Pool, query } from '../runtime/mysql.ts';

/** How long a process keeps the gates without being heard of; one that hangs holds the others up no longer. */
const leaseSeconds = 4;
const renewEveryMs = 1_000;
const deadlineMs = 2_000;

/** The one process of all copies that looks after all gates. */
export interface Keeper {
  /** Whether it is this one, for now. */
  ours(): boolean;
  stop(): Promise<void>;
}

/** Keeps the lease, or takes it when nobody has it. Two may have it for a moment, which does no harm. */
export function startKeeper({ pool, log }: { readonly pool: Pool; readonly log: Log }): Keeper {
  const owner = Buffer.from(randomUUID());
  let validUntilMs = 0;
  const loop = startLoop({
    name: 'keeper',
    intervalMs: renewEveryMs,
    log,
    async run() {
      const sentAtMs = performance.now();
      if (await take(pool, owner)) validUntilMs = sentAtMs + leaseSeconds * 1_000;
    },
  });
  return {
    ours: () => performance.now() < validUntilMs,
    async stop() {
      await loop.stop();
      if (validUntilMs === 0) return;
      const sql = 'UPDATE keeper SET owner = NULL WHERE id = 1 AND owner = ?';
      const deadline = Deadline.after(deadlineMs);
      await query(pool, sql, [owner], { deadline }).catch(() => undefined);
    },
  };
}

/** A lease that ends far in the future was taken by a clock that has been set back since. */
async function take(pool: Pool, owner: Buffer): Promise<boolean> {
  const { affectedRows } = await query<ResultSetHeader>(
    pool,
    `UPDATE keeper SET owner = ?, owned_until = NOW(3) + INTERVAL ${leaseSeconds} SECOND
     WHERE id = 1 AND (owner IS NULL OR owner = ? OR owned_until < NOW(3)
       OR owned_until > NOW(3) + INTERVAL ${2 * leaseSeconds} SECOND)`,
    [owner, owner],
    { deadline: Deadline.after(deadlineMs) },
  );
  return affectedRows === 1;
}
