import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits until `condition` holds, looking every `everyMs`. Time in which this process stood still does not count: nobody
 * else had it either.
 *
 * @throws Error naming `what` if it does not hold within `withinMs`; a bound, not an expectation
 */
export async function eventually(
  condition: () => unknown | Promise<unknown>,
  what: string,
  { withinMs = 60_000, everyMs = 20 } = {},
): Promise<void> {
  let until = performance.now() + withinMs;
  while (!(await condition())) {
    const lookedAt = performance.now();
    if (lookedAt > until) throw new Error(`did not happen in ${withinMs} ms: ${what}`);
    await sleep(everyMs);
    until += Math.max(0, performance.now() - lookedAt - everyMs);
  }
}
