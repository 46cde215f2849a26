import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits until `condition` holds, looking every `everyMs`.
 *
 * @throws Error naming `what` if it does not hold within `withinMs`; a bound, not an expectation
 */
export async function eventually(
  condition: () => unknown | Promise<unknown>,
  what: string,
  { withinMs = 30_000, everyMs = 20 } = {},
): Promise<void> {
  const until = performance.now() + withinMs;
  while (!(await condition())) {
    if (performance.now() > until) throw new Error(`did not happen in ${withinMs} ms: ${what}`);
    await sleep(everyMs);
  }
}
