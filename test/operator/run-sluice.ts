import { execFile } from 'node:child_process';
import { join } from 'node:path';

const command = join(import.meta.dirname, '../../sluice');

/** Runs `./sluice` as an operator does, from any folder. Only the given variables reach it. */
export function sluice(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  cwd = '/',
): Promise<{ code: number; stdout: string; stderr: string }> {
  const options = {
    cwd,
    env: { PATH: process.env.PATH ?? '', ...env },
    maxBuffer: 64 * 1024 * 1024,
  };
  return new Promise((resolve) => {
    execFile(command, [...args], options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });
}
