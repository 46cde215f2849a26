import { setTimeout as sleep } from 'node:timers/promises';

const loadingTypes = new Set([
  'GROUP_LOAD_IN_PROGRESS',
  'GROUP_COORDINATOR_NOT_AVAILABLE',
  'NOT_COORDINATOR_FOR_GROUP',
]);
const triesMax = 20;
const pauseMs = 250;

/**
 * Asks about a consumer group. A broker that has just started, or taken over, knows none for a moment, and
 * kafkajs does not wait for it.
 *
 * @throws what `ask` throws, after 5 s of this
 */
export async function whenGroupsLoaded<Result>(ask: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (!saysLoading(error) || attempt >= triesMax) throw error;
      await sleep(pauseMs);
    }
  }
}

/** After its retries the client throws another error, with the broker's as the cause. */
function saysLoading(error: unknown): boolean {
  const { type = '', cause } = (error ?? {}) as { type?: string; cause?: unknown };
  return loadingTypes.has(type) || (cause !== undefined && saysLoading(cause));
}
