import { readFileSync } from 'node:fs';

/** Descriptors that are not connections of clients: files, services behind, the port for machines. */
const reserved = 500;

/**
 * How many connections of clients this process can hold: as many as are wanted, unless the system allows
 * fewer descriptors. At that limit the system would turn away whoever comes, and nobody could make room.
 *
 * @param limits the text of `/proc/self/limits`; by default this process's own, if the system has it
 */
export function connectionsWithin(wanted: number, limits = ownLimits()): number {
  // Node raises the soft limit to the hard one.
  const [, hard] = /^Max open files\s+\S+\s+(\d+)/m.exec(limits) ?? [];
  if (hard === undefined) return wanted;
  return Math.max(1, Math.min(wanted, Number(hard) - reserved));
}

function ownLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
