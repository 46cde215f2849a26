import type { PoolConnection, RowDataPacket } from 'mysql2/promise';
import type { Deadline } from './deadline.ts';
import { addressOf } from './mysql-connection.ts';
import {
  asRefusal,
  DatabaseSlow,
  deadlockErrno,
  isConnectionUseless,
  lockWaitTimeoutErrno,
  mysqlErrno,
} from './mysql-errors.ts';
import { createConnectionPool, type Pool, sessionOf } from './mysql-pool.ts';
import type { ServerSession } from './mysql-session.ts';
import type { ServerKind } from './mysql-settings.ts';
import { Refusal } from './refusals.ts';

export type { PoolConnection } from 'mysql2/promise';
export {
  DatabaseLost,
  DatabaseSlow,
  duplicateKeyErrno,
  isDatabaseLost,
  isDatabaseSlow,
  isLockWait,
  isStatementTimeout,
  isUselessForWriting,
  lockWaitTimeoutErrno,
  mysqlErrno,
} from './mysql-errors.ts';
export type { Pool } from './mysql-pool.ts';
export { ServerUnfit } from './mysql-session.ts';
export type { ServerKind } from './mysql-settings.ts';

/** A transaction that loses deadlocks this often meets a fault of ours, not bad luck. */
const attemptsMax = 4;
/** Longer than any transaction of ours rests between two statements. */
const restSecondsMax = 4;

export interface PoolOptions {
  readonly database?: string;
  readonly connectionsMax: number;
  /**
   * Lets one query carry several statements, which saves their round trips. For pools whose texts
   * hold numbers, hexadecimal literals, plain text and placeholders only; default false.
   */
  readonly multipleStatements?: boolean;
  /** The sessions may only read; default false. */
  readonly readOnly?: boolean;
  /** Whole seconds that a transaction may rest before the server ends it; default 4. */
  readonly restSecondsMax?: number;
  /** A warehouse that may be neither MySQL nor MariaDB: settings that it lacks are passed over; default false. */
  readonly foreign?: boolean;
}

/**
 * A pool of connections to one database of one server. BIGINT and DECIMAL arrive as strings,
 * times are UTC, updates report changed rows, sessions run READ COMMITTED and wait 1 s for a lock,
 * whatever the server's own settings are. A server that is set in a way that no session can change
 * and we cannot work with is refused, in a sentence. Twice as many as it has connections may wait.
 */
export function createPool(url: string, options: PoolOptions): Pool {
  return createConnectionPool({
    address: addressOf(url, options.database),
    connectionsMax: options.connectionsMax,
    multipleStatements: options.multipleStatements ?? false,
    needs: {
      isReadOnly: options.readOnly ?? false,
      restSecondsMax: options.restSecondsMax ?? restSecondsMax,
      isForeign: options.foreign ?? false,
    },
  });
}

/** What a lent connection's server speaks. */
export function serverKindOf(connection: PoolConnection): ServerKind {
  return sessionOf(connection).kind;
}

/**
 * The text of a SELECT that the server ends after some milliseconds, which bounds its wait for locks;
 * it fails with `isStatementTimeout` then. The transaction lives on, and keeps the locks that the
 * statement took before, until it ends or goes back to a savepoint.
 *
 * @param statement a SELECT without an optimizer hint; any other one is bounded on MariaDB alone
 */
export function lockWaitLimit(kind: ServerKind, ms: number, statement: string): string {
  if (kind === 'mariadb') return `SET STATEMENT max_statement_time=${ms / 1_000} FOR ${statement}`;
  return statement.replace(/^\s*SELECT\b/i, `SELECT /*+ MAX_EXECUTION_TIME(${Math.ceil(ms)}) */`);
}

/**
 * A hand-written statement. It has no placeholders, and null says so to the driver, which otherwise
 * searches all of a long batch for them.
 */
export function literal(sql: string): { sql: string; values: null } {
  return { sql, values: null };
}

/** A statement; a function, where its text depends on the kind of server. */
export type SqlText = string | ((kind: ServerKind) => string);

export interface TransactionOptions {
  readonly deadline: Deadline;
  /** How often the whole transaction may run when it loses a deadlock or a lock wait; default 4. */
  readonly attempts?: number;
  /**
   * Reads that go in one round trip with the transaction's beginning, each without placeholders; for
   * pools with `multipleStatements`. A function, where the text depends on the kind of server.
   */
  readonly opening?: readonly string[] | ((kind: ServerKind) => readonly string[]);
}

/**
 * Runs `work` in one transaction and commits it. A deadlock or lock timeout runs all of it again.
 * `work` is given what the statements of `opening` read, in their order.
 *
 * @throws Refusal OUTCOME_UNKNOWN if COMMIT was sent and not answered; nothing was done after Refusal
 *   OVERLOADED (no connection was free in time) and DEPENDENCY_DOWN (there was none, it broke, or the
 *   time ran out before COMMIT), which `isDatabaseLost` and `isDatabaseSlow` tell apart, as they do
 *   for OUTCOME_UNKNOWN; else what `work` threw (rolled back)
 */
export async function transaction<Result>(
  pool: Pool,
  { deadline, attempts = attemptsMax, opening = [] }: TransactionOptions,
  work: (connection: PoolConnection, opened: RowDataPacket[][]) => Promise<Result>,
): Promise<Result> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await runOnce(pool, deadline, opening, work);
    } catch (error) {
      const errno = mysqlErrno(error);
      const again = errno === deadlockErrno || errno === lockWaitTimeoutErrno;
      if (!again || attempt >= attempts || deadline.leftMs() < 10) throw error;
    }
  }
}

/** One statement outside a transaction, under a deadline. @throws as `transaction` before COMMIT */
export async function query<Rows>(
  pool: Pool,
  sql: SqlText,
  params: readonly unknown[],
  { deadline }: { deadline: Deadline },
): Promise<Rows> {
  return await withConnection(pool, deadline, async (connection) => {
    const text = typeof sql === 'function' ? sql(sessionOf(connection).kind) : sql;
    const [rows] = await connection.query(text, params as unknown[]);
    return rows as Rows;
  });
}

async function runOnce<Result>(
  pool: Pool,
  deadline: Deadline,
  opening: NonNullable<TransactionOptions['opening']>,
  work: (connection: PoolConnection, opened: RowDataPacket[][]) => Promise<Result>,
): Promise<Result> {
  return await withConnection(pool, deadline, async (connection, phase) => {
    const session = sessionOf(connection);
    let result: Result;
    try {
      const reads = typeof opening === 'function' ? opening(session.kind) : opening;
      result = await work(connection, await begin(connection, session, reads));
    } catch (error) {
      await connection.query('ROLLBACK');
      throw error;
    }
    phase.committing = true;
    await connection.query('COMMIT');
    phase.committing = false;
    return result;
  });
}

/**
 * Begins a transaction and carries out its first reads. A server that has no limit of its own for
 * open transactions gets one by the session's; the pool lifts it again when the connection rests.
 */
async function begin(
  connection: PoolConnection,
  session: ServerSession,
  reads: readonly string[],
): Promise<RowDataPacket[][]> {
  const statements = ['START TRANSACTION', ...reads];
  if (session.transactionRestSeconds !== undefined && !session.endsSoon) {
    const limit = `SET SESSION wait_timeout = ${session.transactionRestSeconds}`;
    if (session.multipleStatements) statements.unshift(limit);
    else await connection.query(limit);
  }
  const [results] = await connection.query<RowDataPacket[][]>(literal(statements.join(';')));
  session.endsSoon = session.transactionRestSeconds !== undefined;
  return reads.length === 0 ? [] : results.slice(-reads.length);
}

/**
 * Lends a connection under a deadline. A statement that runs past it cannot be cancelled (and a
 * ROLLBACK would queue behind it), so the connection is destroyed, as is any doubtful one.
 */
async function withConnection<Result>(
  pool: Pool,
  deadline: Deadline,
  work: (connection: PoolConnection, phase: { committing: boolean }) => Promise<Result>,
): Promise<Result> {
  const connection = await pool.lend(deadline);
  const phase = { committing: false };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const giveUp = (): void => reject(new DatabaseSlow('The statement ran past its deadline'));
    // Where this process stood still, the answer may have come meanwhile and is read first.
    timer = setTimeout(() => setImmediate(giveUp), Math.max(0, deadline.leftMs()));
  });
  const working = work(connection, phase);
  try {
    const result = await Promise.race([working, late]);
    connection.release();
    return result;
  } catch (error) {
    if (error instanceof DatabaseSlow) pool.kill(connection);
    else if (phase.committing || isConnectionUseless(error)) connection.destroy();
    else connection.release();
    // What the work still meets on a destroyed connection has nobody left to tell.
    working.catch(() => undefined);
    const told = asRefusal(error);
    if (!phase.committing) throw told;
    throw new Refusal('OUTCOME_UNKNOWN', 'The commit was not answered', { cause: told });
  } finally {
    clearTimeout(timer);
  }
}
