import { Refusal } from './refusals.ts';

/** Server error: a unique key exists already. */
export const duplicateKeyErrno = 1062;
/** Server error: a lock was not granted in time; on MariaDB also the answer to NOWAIT. */
export const lockWaitTimeoutErrno = 1205;
/** Server error: this transaction was chosen to end a circle of waits, and is rolled back. */
export const deadlockErrno = 1213;
/** Server error of MySQL: NOWAIT met a lock. */
const noWaitErrno = 3572;
/** Server errors: a statement ran longer than it was allowed to; MariaDB's and MySQL's. */
const statementTimeoutErrnos: ReadonlySet<number> = new Set([1969, 3024]);
/** Server errors that are about one statement: KILL QUERY, and a packet that was too large. */
const statementErrnos: ReadonlySet<number> = new Set([1153, 1317]);

/**
 * Server errors after which nothing more may be written over this connection: the server refuses
 * writing, refuses us, or has ended the session. It is destroyed, since another one may reach a
 * server that does serve, or the same one with other settings.
 */
const uselessErrnos: ReadonlySet<number> = new Set([
  1036, // A table is read only, because InnoDB was started to be read only (MariaDB).
  1040, // Too many connections.
  1047, // A node of a cluster does not serve yet (Galera).
  1053, // The server shuts down; on MySQL also: this connection was killed.
  1152, // The connection was aborted.
  1153, // A packet was larger than max_allowed_packet: the server closes the connection.
  1158, // The server could not read what we sent.
  1159, // What we sent did not come in time.
  1160, // The server could not write its answer.
  1161, // Its answer was not taken in time.
  1184, // A new connection was aborted.
  1203, // Too many connections of this user.
  1226, // This user's allowance is used up.
  1290, // read_only or super_read_only.
  1317, // KILL QUERY; the transaction is doubtful.
  1665, // The binary log's format has become STATEMENT.
  1792, // The session or transaction is read only.
  1836, // The server is in read-only mode.
  1874, // InnoDB is in read-only mode.
  1881, // InnoDB was started with a forced recovery.
  1927, // The connection was killed (MariaDB).
  3032, // The server is in offline mode.
  3100, // The node has left its replication group.
  3168, // The server is not available.
  3169, // The session was killed.
  4031, // The session rested for too long.
]);

/** More causes than any error of ours has. */
const causesMax = 8;

/** Why a refusal of `transaction` or `query` speaks against the server: it could not be reached, or was lost. */
export class DatabaseLost extends Error {
  readonly kind = 'lost';

  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'DatabaseLost';
  }
}

/** Why a refusal of `transaction` or `query` says nothing against the server but that it took too long. */
export class DatabaseSlow extends Error {
  readonly kind = 'slow';

  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'DatabaseSlow';
  }
}

/** The server's number of an error, or undefined for any other error. */
export function mysqlErrno(error: unknown): number | undefined {
  const errno = (error as { errno?: unknown } | null)?.errno;
  return typeof errno === 'number' && errno > 0 ? errno : undefined;
}

/** Whether a connection that answered with this number is of no use for writing any more. */
export function isUselessForWriting(errno: number | undefined): boolean {
  return errno !== undefined && uselessErrnos.has(errno);
}

/**
 * Whether the server could not be reached, was lost, or does not serve us: what a circuit counts,
 * and what ends when a connection can be made again. Looks at the causes of refusals too.
 */
export function isDatabaseLost(error: unknown): boolean {
  return kindOf(error) === 'lost';
}

/** Whether the time ran out although the server was there. Looks at the causes of refusals too. */
export function isDatabaseSlow(error: unknown): boolean {
  return kindOf(error) === 'slow';
}

/**
 * Whether the server answered that somebody else has a lock: a lock wait that ended (1205), NOWAIT
 * (3572, on MariaDB 1205), a deadlock (1213), or a statement with a bounded wait (1969, 3024).
 */
export function isLockWait(error: unknown): boolean {
  const errno = mysqlErrno(error);
  return (
    errno === lockWaitTimeoutErrno ||
    errno === deadlockErrno ||
    errno === noWaitErrno ||
    isStatementTimeout(error)
  );
}

/** Whether the server ended a statement because it ran longer than `lockWaitLimit` allowed it. */
export function isStatementTimeout(error: unknown): boolean {
  return statementTimeoutErrnos.has(mysqlErrno(error) ?? 0);
}

/** Whether nothing more can be done on the connection that ended a statement with this error. */
export function isConnectionUseless(error: unknown): boolean {
  return isUselessForWriting(mysqlErrno(error)) || isBroken(error);
}

/**
 * What a statement's error means to the caller before COMMIT: the server's answer as it is, or
 * DEPENDENCY_DOWN, with nothing done.
 */
export function asRefusal(error: unknown): unknown {
  if (error instanceof DatabaseSlow) {
    return new Refusal('DEPENDENCY_DOWN', 'The database did not answer in time', { cause: error });
  }
  const errno = mysqlErrno(error);
  const lost = errno === undefined ? isBroken(error) : isLostErrno(errno);
  if (!lost) return error;
  const cause = new DatabaseLost('The connection to the database is lost', error);
  return new Refusal('DEPENDENCY_DOWN', `The database is away: ${textOf(error)}`, { cause });
}

/** The text of an error in the middle of a sentence. */
export function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return textOf(error.errors[0]);
  return error instanceof Error ? error.message || error.name : String(error);
}

function kindOf(error: unknown): 'lost' | 'slow' | undefined {
  let each = error;
  for (let depth = 0; depth < causesMax && each instanceof Error; depth += 1) {
    if (each instanceof DatabaseLost || each instanceof DatabaseSlow) return each.kind;
    if (isLostErrno(mysqlErrno(each))) return 'lost';
    each = each.cause;
  }
  return undefined;
}

function isLostErrno(errno: number | undefined): boolean {
  return isUselessForWriting(errno) && !statementErrnos.has(errno ?? 0);
}

/** Errors of the driver and of the network. */
function isBroken(error: unknown): boolean {
  const { code, fatal } = (error ?? {}) as { code?: unknown; fatal?: unknown };
  return fatal === true || (typeof code === 'string' && /^(E[A-Z]+|PROTOCOL_\w+)$/.test(code));
}
