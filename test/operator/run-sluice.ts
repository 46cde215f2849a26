import { execFile } from 'node:child_process';
import { join } from 'node:path';

const command = join(import.meta.dirname, '../../sluice');

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `./sluice` as an operator does, from any folder. Only the given variables reach it. */
export function sluice(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  cwd = '/',
): Promise<Outcome> {
  return run(command, args, env, cwd);
}

/** The same with its output piped into another command; the exit code is that of `./sluice`. */
export function sluiceInto(
  reader: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Outcome> {
  return run(
    'bash',
    ['--norc', '-o', 'pipefail', '-c', `"$0" "$@" | ${reader}`, command, ...args],
    env,
    '/',
  );
}

function run(
  file: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  cwd: string,
): Promise<Outcome> {
  const options = {
    cwd,
    env: { PATH: process.env.PATH ?? '', ...env },
    maxBuffer: 64 * 1024 * 1024,
  };
  return new Promise((resolve) => {
    execFile(file, [...args], options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });
}
