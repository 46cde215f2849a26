import { runExpiryScenario } from './expiry-scenario.ts';
import type { LifeReport } from './life-report.ts';
import type { BenchOptions, LifeScenarioName, Stack } from './options.ts';
import { runWebhookScenario } from './webhook-scenario.ts';

/** Says on stderr what is being done. */
export type Progress = (text: string) => void;

const run: Readonly<
  Record<
    LifeScenarioName,
    (options: BenchOptions, stack: Stack, progress: Progress) => Promise<LifeReport>
  >
> = { webhooks: runWebhookScenario, expiry: runExpiryScenario };

export async function runLifeScenario(
  scenario: LifeScenarioName,
  options: BenchOptions,
  stack: Stack,
  progress: Progress,
): Promise<LifeReport> {
  return await run[scenario](options, stack, progress);
}
