import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { installPackages } from './install-packages.ts';
import { sharedCacheDir } from './places.ts';

/** Why no process can be given a clock of its own on this machine; undefined where one can. */
export function whyNoFakeClocks(): string | undefined {
  return cLibrary() === undefined
    ? "libfaketime needs Linux and GNU's C library, which this node does not run on"
    : undefined;
}

/**
 * What LD_PRELOAD must be for a process whose clock libfaketime is to set; installed through apt-get where it is missing.
 * The C library goes with it: a process with an allocator of its own would find no memory otherwise.
 *
 * @throws Failure if it may not be installed
 */
export async function requireLibfaketime(
  say: (line: string) => void = () => {},
  signal?: AbortSignal,
): Promise<string> {
  await installPackages({
    missing: () => (existsSync(libfaketime()) ? [] : ['libfaketime']),
    byHand: 'install libfaketime by its own means',
    logsDir: sharedCacheDir,
    say,
    signal,
  });
  return `${libfaketime()} ${cLibrary()}`;
}

/** Debian and others put it beside the C library of the same machine, for programs with several threads. */
function libfaketime(): string {
  return join(dirname(cLibrary() ?? ''), 'faketime', 'libfaketimeMT.so.1');
}

/** The path of the C library that this process runs on. */
function cLibrary(): string | undefined {
  if (process.platform !== 'linux') return undefined;
  return /\S+\/libc\.so\.6$/m.exec(readFileSync('/proc/self/maps', 'utf8'))?.[0];
}
