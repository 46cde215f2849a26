import type { LifeScenarioName } from './options.ts';
import type { Usage } from './process-usage.ts';
import type { Percentiles } from './recorder.ts';

/** What a scenario around orders measured: figures with their names, and what was wrong. */
export interface LifeReport {
  readonly scenario: LifeScenarioName;
  readonly figures: Readonly<Record<string, string | number>>;
  readonly usage: readonly Usage[];
  /** Empty if everything is as it should be. */
  readonly problems: readonly string[];
}

const titles: Readonly<Record<LifeScenarioName, string>> = {
  webhooks: 'webhooks (POST /v1/webhooks/simulator), each of which pays an order',
  expiry: 'orders that expire while others are bought',
};

/** The report for a person. */
export function lifeReportText({ scenario, figures, usage, problems }: LifeReport): string {
  const lines = [
    '',
    `== ${titles[scenario]}`,
    ...Object.entries(figures).map(([name, value]) => `${name.padEnd(34)}${value}`),
    '',
    'process               RSS max MiB   CPU s',
    ...usage.map(
      ({ name, rssMaxMib, cpuSeconds }) =>
        `${name.padEnd(22)}${rssMaxMib.toFixed(0).padStart(11)}${cpuSeconds.toFixed(1).padStart(8)}`,
    ),
    '',
    ...(problems.length === 0
      ? ['everything is where it should be']
      : problems.map((problem) => `WRONG   ${problem}`)),
  ];
  return `${lines.join('\n')}\n`;
}

/** Percentiles on one line, in milliseconds. */
export function percentilesText({ p50, p90, p99, max }: Percentiles): string {
  return `P50 ${p50.toFixed(1)}  P90 ${p90.toFixed(1)}  P99 ${p99.toFixed(1)}  max ${max.toFixed(1)} ms`;
}
