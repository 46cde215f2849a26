import type { Comparison } from './compare-with-mysql.ts';
import type { ScenarioName } from './options.ts';
import type { Usage } from './process-usage.ts';
import type { Percentiles, Summary } from './recorder.ts';

/** What one scenario measured. */
export interface ScenarioReport {
  readonly scenario: ScenarioName;
  /** The highest rate that was held; absent where the rate was given. */
  readonly highestRate?: number;
  /** The rate of the measured phase. */
  readonly rate: number;
  readonly seconds: number;
  readonly summary: Summary;
  /** The same system at multiples of the highest rate; absent unless they were asked for. */
  readonly multiples?: readonly MultipleReport[];
  /** Answers other than created, over the whole scenario, by reason. */
  readonly reasons: Readonly<Record<string, number>>;
  readonly usage: readonly Usage[];
  readonly comparison: Comparison;
}

/** What came of offering a multiple of the highest rate. */
export interface MultipleReport {
  readonly multiple: number;
  readonly rate: number;
  readonly summary: Summary;
}

/** The report for a person. */
export function reportText(report: ScenarioReport): string {
  const { summary, seconds, usage, comparison } = report;
  const perSecond = (count: number): string => (count / seconds).toFixed(0);
  const lines = [
    '',
    `== ${titles[report.scenario]}`,
    ...(report.highestRate === undefined
      ? []
      : [`highest rate held     ${report.highestRate} orders/s`]),
    `offered               ${report.rate}/s for ${seconds} s, ${summary.offered} orders`,
    `created               ${perSecond(summary.ok)}/s`,
    `refused (business)    ${perSecond(summary.refused)}/s`,
    `turned away           ${perSecond(summary.unserved)}/s`,
    `unknown               ${summary.unknown + summary.none}`,
    `not sent              ${summary.notSent}`,
    `latency of created    ${latencies(summary.okMs)}`,
    ...(summary.refused > 0 ? [`latency of refused    ${latencies(summary.refusedMs)}`] : []),
    ...(summary.unserved > 0 ? [`latency of turned away ${latencies(summary.unservedMs)}`] : []),
    ...reasonLines(report.reasons),
    ...multipleLines(report),
    '',
    'process               RSS max MiB   CPU s   µs CPU per order',
    ...usage.map(({ name, rssMaxMib, cpuSeconds }) => {
      const each = (cpuSeconds * 1e6) / Math.max(1, summary.ok + summary.refused);
      return `${name.padEnd(22)}${rssMaxMib.toFixed(0).padStart(11)}${cpuSeconds.toFixed(1).padStart(8)}${each.toFixed(0).padStart(19)}`;
    }),
    '',
    `in MySQL              ${comparison.orders} orders (${comparison.ordersOfUnknown} of unknown answers), ${comparison.holds} holds, ${comparison.ledger.held} held`,
    `orders = holds        after ${comparison.settledAfterMs} ms`,
    ...(comparison.problems.length === 0
      ? ['answers and MySQL     agree']
      : comparison.problems.map((problem) => `DISAGREEMENT          ${problem}`)),
  ];
  return `${lines.join('\n')}\n`;
}

const titles: Readonly<Record<ScenarioName, string>> = {
  batch: 'gRPC, batches (BatchCreateOrders)',
  unary: 'gRPC, one by one (CreateOrder)',
  http: 'HTTP (POST /v1/orders)',
};

function latencies({ p50, p90, p99, p999, max }: Percentiles): string {
  const text = (value: number): string => (Number.isNaN(value) ? '–' : value.toFixed(1));
  return `P50 ${text(p50)}  P90 ${text(p90)}  P99 ${text(p99)}  P99.9 ${text(p999)}  max ${text(max)} ms`;
}

function multipleLines({ multiples, seconds }: ScenarioReport): string[] {
  if (multiples === undefined) return [];
  const head = [
    'load',
    'offered/s',
    'created/s',
    'P99 ms',
    'away/s',
    'P50 ms',
    'P99 ms',
    'unknown',
  ];
  const columns = (cells: readonly (string | number)[]): string =>
    cells.map((cell) => String(cell).padStart(10)).join('');
  const whole = (value: number): string => (Number.isNaN(value) ? '–' : value.toFixed(0));
  const rows = multiples.map(({ multiple, rate, summary }) =>
    columns([
      `${multiple}x`,
      rate,
      whole(summary.ok / seconds),
      whole(summary.okMs.p99),
      whole((summary.unserved + summary.notSent) / seconds),
      whole(summary.unservedMs.p50),
      whole(summary.unservedMs.p99),
      summary.unknown + summary.none,
    ]),
  );
  return [
    '',
    'multiples of the highest rate: created, and turned away (away)',
    columns(head),
    ...rows,
  ];
}

function reasonLines(reasons: Readonly<Record<string, number>>): string[] {
  const entries = Object.entries(reasons);
  if (entries.length === 0) return [];
  const text = entries.map(([reason, count]) => `${reason} ${count}`).join(', ');
  return [`all not created       ${text} (whole scenario)`];
}
