import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { Failure } from './failure.ts';

/** Servers are often outside the PATH of an ordinary user (Debian), or of a non-login shell (Homebrew). */
const moreDirs = ['/usr/sbin', '/usr/local/sbin', '/usr/local/bin', '/opt/homebrew/bin'];

/** The full path of a program; undefined when the machine does not have it. */
export function findProgram(name: string): string | undefined {
  const dirs = [...(process.env.PATH ?? '').split(delimiter), ...moreDirs];
  for (const dir of dirs) {
    if (dir === '') continue;
    const path = join(dir, name);
    try {
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** The same, or a Failure that says how to get it. */
export function requireProgram(name: string): string {
  const path = findProgram(name);
  if (path === undefined) {
    throw new Failure(
      `The program ${name} is missing on this machine; "npm start" and "npm test" install it where they may.`,
    );
  }
  return path;
}
