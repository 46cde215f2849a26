import { readdirSync, readFileSync } from 'node:fs';
import { becomesTrue, stopByIdentity } from './process.ts';
import { identityOf, type ProcessIdentity } from './process-identity.ts';

const stopGraceMs = 2_000;

/**
 * Processes that were started with `variable=value` in their environment, such as servers that a killed test could not
 * stop. Linux only; elsewhere nothing is found.
 */
export function findStrays(variable: string, value: string): ProcessIdentity[] {
  const wanted = `${variable}=${value}`;
  const strays: ProcessIdentity[] = [];
  for (const entry of readdirSync('/proc', { encoding: 'utf8' })) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
      const identity = environment.includes(wanted) ? identityOf(pid) : undefined;
      if (identity !== undefined) strays.push(identity);
    } catch {
      // It ended while we looked, or belongs to somebody else.
    }
  }
  return strays;
}

/** Stops the strays that do not end by themselves within the bound, and answers which those were. */
export async function stopStrays(
  variable: string,
  value: string,
  boundMs = 5_000,
): Promise<ProcessIdentity[]> {
  if (process.platform !== 'linux') return [];
  if (await becomesTrue(() => findStrays(variable, value).length === 0, boundMs)) return [];
  const strays = findStrays(variable, value);
  await Promise.all(strays.map((stray) => stopByIdentity(stray, stopGraceMs)));
  return strays;
}
