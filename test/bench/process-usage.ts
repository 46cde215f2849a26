import { readFileSync } from 'node:fs';

/** Linux counts CPU time in hundredths of a second. */
const ticksPerSecond = 100;
const sampleMs = 500;

export interface Usage {
  readonly name: string;
  /** Largest resident memory seen, in MiB. */
  readonly rssMaxMib: number;
  /** CPU seconds used, user and system. */
  readonly cpuSeconds: number;
}

/** Watches memory and CPU time of processes until it is stopped; silent where /proc is missing. */
export function watchUsage(processes: readonly { readonly name: string; readonly pid: number }[]): {
  stop(): Usage[];
} {
  const watched = processes.map((process) => ({
    ...process,
    startCpuSeconds: cpuSecondsOf(process.pid),
    rssMaxMib: rssMibOf(process.pid),
  }));
  const timer = setInterval(() => {
    for (const process of watched) {
      process.rssMaxMib = Math.max(process.rssMaxMib, rssMibOf(process.pid));
    }
  }, sampleMs);
  return {
    stop() {
      clearInterval(timer);
      return watched.map(({ name, pid, startCpuSeconds, rssMaxMib }) => ({
        name,
        rssMaxMib,
        cpuSeconds: cpuSecondsOf(pid) - startCpuSeconds,
      }));
    },
  };
}

function rssMibOf(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(read(`/proc/${pid}/status`))?.[1];
  return kib === undefined ? Number.NaN : Number(kib) / 1_024;
}

function cpuSecondsOf(pid: number): number {
  // The name in parentheses may hold spaces; user and system time are fields 14 and 15.
  const fields = read(`/proc/${pid}/stat`).split(') ').at(-1)?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
