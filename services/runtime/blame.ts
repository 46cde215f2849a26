import { FailpointError } from './failpoints.ts';
import { isConnectionUseless, isLockWait, mysqlErrno } from './mysql-errors.ts';
import { Refusal } from './refusals.ts';
import { NotTried } from './some-failed.ts';

/**
 * What a failure is about: the entries that were handled, which will always fail; the database,
 * which was lost, crowded, locked or refused to write, so that the same entries may succeed later; or
 * an error that we do not know.
 */
export type Blame = 'entry' | 'database' | 'unclear';

/** Decides by the error alone; who fails again and again beside others that succeed is another question. */
export function blameOf(error: unknown): Blame {
  if (error instanceof FailpointError || error instanceof NotTried) return 'database';
  if (error instanceof Refusal || isLockWait(error)) return 'database';
  const errno = mysqlErrno(error);
  // Errors of ours and of the data have no code; the driver and the operating system have.
  if (errno === undefined) return isConnectionUseless(error) ? 'database' : 'entry';
  if (badEntryErrnos.has(errno)) return 'entry';
  if (tooLargeErrnos.has(errno)) return 'unclear';
  return serverErrnos.has(errno) || isConnectionUseless(error) ? 'database' : 'unclear';
}

/** Whether the database reads and does not write: that it can be read says nothing about its health. */
export function refusesToWrite(error: unknown): boolean {
  let each = error;
  for (let depth = 0; depth < causesMax && each instanceof Error; depth += 1) {
    if (refusingErrnos.has(mysqlErrno(each) ?? 0)) return true;
    each = each.cause;
  }
  return false;
}

const causesMax = 8;

/** The database will never take these values: null, too long, out of range, against a CHECK, not of the column's type. */
const badEntryErrnos = new Set([1048, 1264, 1265, 1292, 1366, 1406, 1690, 3819, 4025]);

/** The connection is lost, but for what was sent over it. */
const tooLargeErrnos = new Set([1153]);

/** Read-only in one way or another, or no room: disk or table full. */
const refusingErrnos = new Set([1021, 1036, 1114, 1290, 1665, 1792, 1836, 1874, 1881]);

/** Besides those that make a connection useless. */
const serverErrnos = new Set([
  // No room on the disk or in the table, no memory, no thread.
  ...[1021, 1037, 1038, 1041, 1114, 1135],
  // No right to it; not there, or not migrated yet.
  ...[1044, 1045, 1049, 1054, 1142, 1146, 1698],
  // A user-level lock.
  ...[3058],
]);
