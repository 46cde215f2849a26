import { ConfigError } from '../runtime/env.ts';
import { DatabaseLost, DatabaseSlow, ServerUnfit } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';

/** Exit codes of every command. */
export const exitCode = {
  /** Nothing is wrong, or the work is done. */
  clean: 0,
  /** A promise is broken. */
  breaches: 1,
  /** It could not look or do its work: a server is away, or an argument is wrong. */
  couldNotLook: 2,
} as const;

/** Why a command cannot do its work, in one sentence that says what to do. */
export class CouldNotLook extends Error {
  constructor(sentence: string, cause?: unknown) {
    super(sentence, cause === undefined ? undefined : { cause });
    this.name = 'CouldNotLook';
  }
}

const connectionCodes = /^(ECONN|ETIMEDOUT|ENOTFOUND|EHOST|EAI_AGAIN|PROTOCOL_CONNECTION_LOST)/;
const accessDeniedErrnos = new Set([1044, 1045, 1698]);
const unknownDatabaseErrno = 1049;
const unknownTableErrnos = new Set([1146, 1054]);

/** What a failure on one of the databases means to the person at the terminal. */
export function databaseFailure(error: unknown, server: string, database: string): CouldNotLook {
  if (error instanceof CouldNotLook) return error;
  const inner = innermostOf(error);
  const { code, errno, message } = inner as { code?: string; errno?: number; message?: string };
  if (inner instanceof ServerUnfit) return new CouldNotLook(inner.message, error);
  const at = `MySQL at ${server}`;
  if (errno === unknownDatabaseErrno) {
    const hint = 'is SLUICE_DATABASE_PREFIX right, and was it migrated (npm start does that)?';
    return new CouldNotLook(`${at} has no database ${database}: ${hint}`, error);
  }
  if (errno !== undefined && unknownTableErrnos.has(errno)) {
    const hint = 'is SLUICE_ORDER_SHARDS right, and was it migrated (npm start does that)?';
    return new CouldNotLook(
      `${database} on ${at} is laid out otherwise (${message}): ${hint}`,
      error,
    );
  }
  if (errno !== undefined && accessDeniedErrnos.has(errno)) {
    return new CouldNotLook(
      `${at} refuses the user: put user and password into ${variableOf(database)}.`,
      error,
    );
  }
  if (connectionCodes.test(code ?? '') || isOurs(inner)) {
    return new CouldNotLook(
      `${at} does not answer (${code ?? message}): is it running, and is ${variableOf(database)} right?`,
      error,
    );
  }
  return new CouldNotLook(`${at} failed on ${database}: ${message ?? String(inner)}.`, error);
}

/** What the server or the network said, below what we have made of it. */
function innermostOf(error: unknown): unknown {
  let inner = error;
  while (isOurs(inner) && inner.cause !== undefined) inner = inner.cause;
  return inner;
}

function isOurs(error: unknown): error is Error {
  return error instanceof Refusal || error instanceof DatabaseLost || error instanceof DatabaseSlow;
}

function variableOf(database: string): string {
  return database.endsWith('_warehouse') ? 'SLUICE_WAREHOUSE_URL' : 'SLUICE_MYSQL_URLS';
}

/** The sentence of any failure that ends a command, or undefined for a fault of ours, whose stack is wanted. */
export function sentenceOf(error: unknown): string | undefined {
  if (error instanceof ConfigError) return error.problems.join('\n');
  if (error instanceof CouldNotLook || error instanceof Refusal) return error.message;
  return undefined;
}
