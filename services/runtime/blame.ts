import { FailpointError } from './failpoints.ts';
import { mysqlErrno } from './mysql.ts';
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
  if (error instanceof Refusal) return 'database';
  const errno = mysqlErrno(error);
  if (errno !== undefined) {
    if (badEntryErrnos.has(errno)) return 'entry';
    return databaseErrnos.has(errno) ? 'database' : 'unclear';
  }
  const { code } = (error ?? {}) as { code?: unknown };
  // The driver and the operating system have codes; what has none is a fault of ours or in the data.
  return typeof code === 'string' && /^(E[A-Z]+|PROTOCOL_\w+)$/.test(code) ? 'database' : 'entry';
}

/** Whether the database reads and does not write: that it can be read says nothing about its health. */
export function refusesToWrite(error: unknown): boolean {
  return refusingErrnos.has(mysqlErrno(error) ?? 0);
}

/** The database will never take these values: null, too long, out of range, against a CHECK, not the row's type. */
const badEntryErrnos = new Set([1048, 1264, 1265, 1292, 1366, 1406, 1690, 3819, 4025]);

/** Read-only (1290, 1792, 1836), or no room: disk or table full (1021, 1114). */
const refusingErrnos = new Set([1021, 1114, 1290, 1792, 1836]);

const databaseErrnos = new Set([
  ...refusingErrnos,
  // Too many connections or no memory for one more; no right to it; not there, or not migrated yet.
  ...[1037, 1038, 1040, 1041, 1044, 1045, 1049, 1054, 1135, 1146, 1203, 1226, 1698],
  // Shutting down, killed, or ended for its time.
  ...[1053, 1317, 1927, 1969, 3024, 3169, 4031],
  // The connection broke.
  ...[1152, 1158, 1159, 1160, 1161, 1184, 2006, 2013],
  // Waited for a lock in vain, would have to wait, lost a deadlock.
  ...[1205, 1213, 3058, 3572],
]);
