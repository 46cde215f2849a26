import { compareWithMysql } from './compare-with-mysql.ts';
import { createGrpcTarget } from './grpc-target.ts';
import { findHighestRate } from './highest-rate.ts';
import { createHttpTarget } from './http-target.ts';
import { type LifeReport, lifeReportText } from './life-report.ts';
import { runLifeScenario } from './life-scenarios.ts';
import { offerLoad, type Target } from './open-loop.ts';
import {
  type BenchOptions,
  helpText,
  readOptions,
  readStack,
  type ScenarioName,
  type Stack,
} from './options.ts';
import { createOrderRequests } from './order-requests.ts';
import { watchUsage } from './process-usage.ts';
import { Recorder } from './recorder.ts';
import { type MultipleReport, reportText, type ScenarioReport } from './report.ts';
import { openSale, type Sale } from './sale.ts';

/** Compiles the hot paths and fills the connections before anything is measured. */
const warmUp = [
  { rate: 500, seconds: 4 },
  { rate: 1_500, seconds: 4 },
];
const startRates: Readonly<Record<ScenarioName, number>> = {
  batch: 3_000,
  unary: 1_000,
  http: 1_500,
};
/** Percentiles are measured at this share of the highest rate: a system in use is not at its limit. */
const measuredShare = 0.7;
/** Between two multiples of it. */
const restMs = 2_000;

process.exitCode = await main();

async function main(): Promise<number> {
  let options: BenchOptions | 'help';
  let stack: Stack;
  try {
    options = readOptions(process.argv.slice(2));
    stack = readStack(process.env);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return 2;
  }
  if (options === 'help') {
    process.stdout.write(helpText);
    return 0;
  }
  const lives: LifeReport[] = [];
  for (const scenario of options.lifeScenarios) {
    const report = await runLifeScenario(scenario, options, stack, progress);
    lives.push(report);
    if (!options.json) process.stdout.write(lifeReportText(report));
  }
  if (options.lifeScenarios.length > 0) {
    if (options.json) process.stdout.write(`${JSON.stringify(lives, undefined, 2)}\n`);
    return lives.every(({ problems }) => problems.length === 0) ? 0 : 1;
  }
  const reports: ScenarioReport[] = [];
  for (const scenario of options.scenarios) {
    const report = await runScenario(scenario, options, stack);
    reports.push(report);
    if (!options.json) process.stdout.write(reportText(report));
  }
  if (options.json) process.stdout.write(`${JSON.stringify(reports, undefined, 2)}\n`);
  return reports.every(({ comparison }) => comparison.problems.length === 0) ? 0 : 1;
}

async function runScenario(
  scenario: ScenarioName,
  options: BenchOptions,
  stack: Stack,
): Promise<ScenarioReport> {
  const { skus, users, sellOut, seconds } = options;
  const recorder = new Recorder();
  const sale = await openSale(stack, {
    skus,
    users,
    ...(sellOut === undefined ? {} : { units: sellOut }),
  });
  const target = createTarget(scenario, options, stack, sale, recorder);
  try {
    progress(`${scenario}: warming up`);
    for (const step of warmUp) await offerLoad({ target, recorder, ...step });
    const highestRate = options.rate
      ? undefined
      : await search(scenario, options, target, recorder);
    const rate = options.rate ?? Math.max(1, Math.round((highestRate ?? 0) * measuredShare));
    progress(`${scenario}: measuring at ${rate}/s for ${seconds} s`);
    const usage = watchUsage([...stack.processes, { name: 'load', pid: process.pid }]);
    const load = await offerLoad({ target, recorder, rate, seconds });
    const used = usage.stop();
    const highest = options.rate ?? highestRate ?? 0;
    const multiples = await offerMultiples(scenario, options, highest, target, recorder);
    progress(`${scenario}: comparing with MySQL`);
    const comparison = await compareWithMysql(stack, sale, recorder);
    return {
      scenario,
      ...(highestRate === undefined ? {} : { highestRate }),
      rate,
      seconds,
      summary: recorder.summary(load.from, load.to),
      ...(multiples.length === 0 ? {} : { multiples }),
      reasons: Object.fromEntries(recorder.reasons),
      usage: used,
      comparison,
    };
  } finally {
    await target.close();
  }
}

/** Offers each multiple of the highest rate for a while, after a rest in which the last one is over. */
async function offerMultiples(
  scenario: ScenarioName,
  { multiples, seconds }: BenchOptions,
  highestRate: number,
  target: Target,
  recorder: Recorder,
): Promise<MultipleReport[]> {
  const reports: MultipleReport[] = [];
  for (const multiple of multiples) {
    const rate = Math.max(1, highestRate * multiple);
    progress(
      `${scenario}: offering ${multiple} times the highest rate, ${rate}/s, for ${seconds} s`,
    );
    await new Promise((resolve) => setTimeout(resolve, restMs));
    const { from, to } = await offerLoad({ target, recorder, rate, seconds });
    reports.push({ multiple, rate, summary: recorder.summary(from, to) });
  }
  return reports;
}

function search(
  scenario: ScenarioName,
  { stepSeconds }: BenchOptions,
  target: Target,
  recorder: Recorder,
): Promise<number> {
  return findHighestRate({
    target,
    recorder,
    startRate: startRates[scenario],
    stepSeconds,
    onStep({ rate, held, summary, load }) {
      const answered = summary.ok + summary.refused;
      progress(
        `${scenario}: ${rate}/s ${held ? 'held' : 'NOT held'} (${answered} of ${summary.offered} answered, ` +
          `backlog ${load.backlogHalfway} → ${load.backlogAtEnd}, P99 ${summary.okMs.p99.toFixed(0)} ms)`,
      );
    },
  });
}

function createTarget(
  scenario: ScenarioName,
  options: BenchOptions,
  stack: Stack,
  sale: Sale,
  recorder: Recorder,
): Target {
  if (scenario === 'http') {
    return createHttpTarget({
      url: stack.edgeUrl,
      requests: createOrderRequests(stack.edgeUrl, { tokenSecret: stack.tokenSecret, sale }),
      recorder,
      connectionsMax: options.connections,
    });
  }
  const batchEntries = scenario === 'batch' ? options.batchEntries : 1;
  return createGrpcTarget({ address: stack.orderAddress, sale, recorder, batchEntries });
}

/** Progress goes to stderr, so that stdout holds the report alone. */
function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}
