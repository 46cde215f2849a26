import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

/** A pid alone is reused by the system; with its command line and, on Linux, its start time it names one process. */
export type ProcessIdentity = { pid: number; commandLine: string; startTime: string };

/** Undefined when no such process runs (a zombie does not run). */
export function identityOf(pid: number): ProcessIdentity | undefined {
  if (!existsSync('/proc/self/stat')) return identityFromPs(pid);
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the name in brackets and may itself hold blanks and brackets: count from the last one.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
    const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return {
      pid,
      commandLine: commandLine.split('\0').join(' ').trim(),
      startTime: fields[19] ?? '',
    };
  } catch {
    return undefined;
  }
}

/** Whether that very process still runs. */
export function isStillThat(identity: ProcessIdentity): boolean {
  const now = identityOf(identity.pid);
  return (
    now !== undefined &&
    now.startTime === identity.startTime &&
    now.commandLine === identity.commandLine
  );
}

function identityFromPs(pid: number): ProcessIdentity | undefined {
  try {
    const ps = (format: string): string =>
      execFileSync('ps', ['-p', String(pid), '-o', `${format}=`], { encoding: 'utf8' }).trim();
    if (ps('state').startsWith('Z')) return undefined;
    return { pid, commandLine: ps('args'), startTime: ps('lstart') };
  } catch {
    return undefined;
  }
}
