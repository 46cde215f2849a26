import type { PoolConnection as DriverConnection } from 'mysql2';
import {
  createPool as createDriverPool,
  type Pool,
  type PoolConnection,
  type RowDataPacket,
} from 'mysql2/promise';
import type { Deadline } from './deadline.ts';
import { Refusal } from './refusals.ts';

export type { Pool, PoolConnection } from 'mysql2/promise';

/** Server error: a unique key exists already. */
export const duplicateKeyErrno = 1062;
/** Server error: a lock was not granted within `innodb_lock_wait_timeout`. */
export const lockWaitTimeoutErrno = 1205;
const deadlockErrno = 1213;
/** A transaction that loses deadlocks this often meets a fault of ours, not bad luck. */
const attemptsMax = 4;
const connectTimeoutMs = 3_000;
/** Longer than any transaction of ours rests between two statements. */
const idleSecondsMax = 10;

/** The server's number of an error, or undefined for any other error. */
export function mysqlErrno(error: unknown): number | undefined {
  const errno = (error as { errno?: unknown } | null)?.errno;
  return typeof errno === 'number' && errno > 0 ? errno : undefined;
}

export interface PoolOptions {
  readonly database?: string;
  readonly connectionsMax: number;
  /**
   * Lets one query carry several statements, which saves their round trips. For pools whose texts
   * hold numbers, hexadecimal literals, plain text and placeholders only; default false.
   */
  readonly multipleStatements?: boolean;
}

/**
 * A pool of connections to one database of one server. BIGINT and DECIMAL arrive as strings,
 * times are UTC, updates report changed rows, sessions run READ COMMITTED and wait 1 s for a lock.
 */
export function createPool(
  url: string,
  { database, connectionsMax, multipleStatements = false }: PoolOptions,
): Pool {
  const { hostname, port, username, password } = new URL(url);
  const pool = createDriverPool({
    host: hostname,
    port: Number(port || 3306),
    user: decodeURIComponent(username || 'root'),
    password: decodeURIComponent(password),
    ...(database === undefined ? {} : { database }),
    connectionLimit: connectionsMax,
    maxIdle: connectionsMax,
    queueLimit: connectionsMax * 2,
    connectTimeout: connectTimeoutMs,
    enableKeepAlive: true,
    keepAliveInitialDelay: 10_000,
    maxPreparedStatements: 256,
    supportBigNumbers: true,
    bigNumberStrings: true,
    decimalNumbers: false,
    trace: false,
    multipleStatements,
    timezone: 'Z',
    flags: ['-FOUND_ROWS'],
  });
  pool.on('connection', (lent) => {
    // The driver emits its own connection here, whatever its types say; these statements queue
    // before the first one of whoever asked for the connection.
    const connection = lent as unknown as DriverConnection;
    connection.query('SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED', onSessionError);
    connection.query(
      "SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = 1",
      onSessionError,
    );
    // A process that hangs, or a host that vanished, must not keep its locks for ever. MariaDB only.
    connection.query(`SET SESSION idle_transaction_timeout = ${idleSecondsMax}`, onSessionError);
  });
  return pool;
}

export interface TransactionOptions {
  readonly deadline: Deadline;
  /** How often the whole transaction may run when it loses a deadlock or a lock wait; default 4. */
  readonly attempts?: number;
  /**
   * Reads that go in one round trip with the transaction's beginning, each without placeholders; for
   * pools with `multipleStatements`.
   */
  readonly opening?: readonly string[];
}

/**
 * Runs `work` in one transaction and commits it. A deadlock or lock timeout runs all of it again.
 * `work` is given what the statements of `opening` read, in their order.
 *
 * @throws Refusal OUTCOME_UNKNOWN if COMMIT was sent and not answered; Refusal DEPENDENCY_DOWN if
 *   there was no connection or it broke before COMMIT (nothing was done); else what `work` threw
 *   (rolled back)
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
  sql: string,
  params: readonly unknown[],
  { deadline }: { deadline: Deadline },
): Promise<Rows> {
  return await withConnection(pool, deadline, async (connection) => {
    const [rows] = await connection.query(sql, params as unknown[]);
    return rows as Rows;
  });
}

async function runOnce<Result>(
  pool: Pool,
  deadline: Deadline,
  opening: readonly string[],
  work: (connection: PoolConnection, opened: RowDataPacket[][]) => Promise<Result>,
): Promise<Result> {
  return await withConnection(pool, deadline, async (connection, phase) => {
    let result: Result;
    try {
      result = await work(connection, await begin(connection, opening));
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

async function begin(
  connection: PoolConnection,
  opening: readonly string[],
): Promise<RowDataPacket[][]> {
  const sql = ['START TRANSACTION', ...opening].join(';');
  // Null says that there is no placeholder: the driver need not look for one.
  const [results] = await connection.query<RowDataPacket[][]>({ sql, values: null });
  return opening.length === 0 ? [] : results.slice(1);
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
  const connection = await acquire(pool, deadline);
  const phase = { committing: false };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const giveUp = (): void => reject(new DeadlinePassed('the statement ran past its deadline'));
    timer = setTimeout(giveUp, Math.max(0, deadline.leftMs()));
  });
  const working = work(connection, phase);
  try {
    const result = await Promise.race([working, late]);
    connection.release();
    return result;
  } catch (error) {
    if (phase.committing || error instanceof DeadlinePassed || isUseless(error)) {
      destroy(connection);
      if (error instanceof DeadlinePassed) killStatement(pool, connection);
      // What the work still meets on the destroyed connection has nobody left to tell.
      working.catch(() => undefined);
    } else {
      connection.release();
      throw error;
    }
    if (phase.committing) {
      throw new Refusal('OUTCOME_UNKNOWN', 'The commit was not answered', { cause: error });
    }
    if (mysqlErrno(error) !== undefined) throw error;
    throw new Refusal('DEPENDENCY_DOWN', 'The database did not answer in time', { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

class DeadlinePassed extends Error {}

/** The driver's own `destroy` only says good-bye, and a statement under way goes on waiting. */
function destroy(connection: PoolConnection): void {
  connection.destroy();
  const { stream } = connection.connection as unknown as { stream?: { destroy(): void } };
  stream?.destroy();
}

/**
 * The server would not notice a closed connection before its statement ends, and until then it
 * keeps the transaction's locks. Best effort: without it they last as long as the statement.
 */
function killStatement(pool: Pool, { threadId }: PoolConnection): void {
  if (threadId) pool.query(`KILL ${threadId}`).catch(() => undefined);
}

async function acquire(pool: Pool, deadline: Deadline): Promise<PoolConnection> {
  const pending = pool.getConnection();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(resolve, Math.max(0, deadline.leftMs()), 'late');
  });
  try {
    const connection = await Promise.race([pending, late]);
    if (connection !== 'late') return connection;
  } catch (error) {
    throw new Refusal('DEPENDENCY_DOWN', 'No connection to the database', { cause: error });
  } finally {
    clearTimeout(timer);
  }
  // It may still come; then it must go back to the pool.
  pending.then(
    (connection) => connection.release(),
    () => undefined,
  );
  throw new Refusal('DEPENDENCY_DOWN', 'No free connection to the database in time');
}

/** Whether nothing more can be done on the connection that answered with this error. */
function isUseless(error: unknown): boolean {
  if (uselessErrnos.has(mysqlErrno(error) ?? 0)) return true;
  const { code, fatal } = (error ?? {}) as { code?: unknown; fatal?: unknown };
  return fatal === true || (typeof code === 'string' && /^(E[A-Z]+|PROTOCOL_\w+)$/.test(code));
}

/** Shut down (1053), killed (1927, 3169, 1317), read-only (1290, 1836): useless for the next one. */
const uselessErrnos = new Set([1053, 1290, 1317, 1836, 1927, 3169, 4031]);

/** A session that could not be set up breaks at its next statement, which reports it. */
function onSessionError(): void {}
