import { setTimeout as sleep } from 'node:timers/promises';
import { type ExpiryWindow, giveTimes } from './expiry-times.ts';
import { createGrpcTarget } from './grpc-target.ts';
import { type LifeReport, percentilesText } from './life-report.ts';
import type { Progress } from './life-scenarios.ts';
import { makeOrders } from './made-orders.ts';
import { offerLoad } from './open-loop.ts';
import type { BenchOptions, Stack } from './options.ts';
import { countStates } from './order-states.ts';
import { type Usage, watchUsage } from './process-usage.ts';
import { Recorder, type Summary } from './recorder.ts';
import { openSale } from './sale.ts';

const defaultRate = 2_000;
/** Orders whose time is over, per second. */
const expiryRate = 2_000;
const settleMaxMs = 60_000;
const cancelled = '5';
const released = '3';

/** From giving the times to the first phase: what the giving left to do must not be measured. */
const restSeconds = 10;
const warmUpSeconds = 10;
/** Between phases, for the last answers and the last orders that expire. */
const pauseSeconds = 3;

/** A stretch of time in which buyers buy, with or without expiry beside them. */
interface Phase {
  readonly kind: 'warm-up' | 'alone' | 'beside';
  readonly seconds: number;
  readonly expiry: boolean;
}

/**
 * Buyers at a fixed rate, in turns alone and while other orders come due at 2,000/s, twice each and
 * after a warm-up of both; their latencies are compared. The orders that expire were made before,
 * and are given their times in MySQL.
 */
export async function runExpiryScenario(
  { rate = defaultRate, seconds, skus, users, batchEntries }: BenchOptions,
  stack: Stack,
  progress: Progress,
): Promise<LifeReport> {
  const phases: readonly Phase[] = [
    { kind: 'warm-up', seconds: warmUpSeconds, expiry: true },
    ...[1, 2].flatMap(() => [
      { kind: 'alone' as const, seconds, expiry: false },
      { kind: 'beside' as const, seconds, expiry: true },
    ]),
  ];
  const starts = startsOf(phases);
  const windows = windowsOf(phases, starts);
  const count = expiryRate * windows.reduce((sum, window) => sum + window.seconds, 0);
  const left = await openSale(stack, { skus, users });
  progress(`expiry: making ${count} orders that are to expire`);
  await makeOrders(stack, left, count);
  const sale = await openSale(stack, { skus, users });
  const recorder = new Recorder();
  const target = createGrpcTarget({ address: stack.orderAddress, sale, recorder, batchEntries });
  const processes = [...stack.processes, { name: 'load', pid: process.pid }];
  const summaries: Record<Phase['kind'], Summary[]> = { 'warm-up': [], alone: [], beside: [] };
  const cpuSeconds: string[] = [];
  let usage: Usage[] = [];
  try {
    const startMs = await giveTimes(stack, left, windows);
    for (const [index, phase] of phases.entries()) {
      const leftMs = startMs + (starts[index] ?? 0) * 1_000 - performance.now();
      if (leftMs < 0) throw new Error(`the ${phase.kind} phase began ${-leftMs} ms late`);
      await sleep(leftMs);
      progress(`expiry: ${phase.seconds} s, buyers at ${rate}/s, ${phase.kind}`);
      const watch = watchUsage(processes);
      const { from, to } = await offerLoad({ target, recorder, rate, seconds: phase.seconds });
      usage = watch.stop();
      cpuSeconds.push(`${cpuSecondsOf(usage)} s`);
      summaries[phase.kind].push(recorder.summary(from, to));
    }
    const atEnd = (await countStates(stack, left)).orders[cancelled] ?? 0;
    const endMs = performance.now();
    let states = await countStates(stack, left);
    while (states.holds[released] !== count && performance.now() - endMs < settleMaxMs) {
      await sleep(250);
      states = await countStates(stack, left);
    }
    const isWhole = states.orders[cancelled] === count && states.holds[released] === count;
    return {
      scenario: 'expiry',
      figures: {
        ...phaseFigures('bought alone', summaries.alone, seconds),
        ...phaseFigures('bought beside the expiry', summaries.beside, seconds),
        'P99 beside / alone': ratio(summaries.beside, summaries.alone).toFixed(2),
        'CPU in each phase': cpuSeconds.join(', '),
        'expired when the buyers ended': `${atEnd} of ${count}`,
        'all CANCELLED and given back': `${Math.round(performance.now() - endMs)} ms later`,
      },
      usage,
      problems: isWhole ? [] : [`states of the expired: ${JSON.stringify(states)}`],
    };
  } finally {
    await target.close();
  }
}

/** When each phase begins, in seconds after the times were given. */
function startsOf(phases: readonly Phase[]): number[] {
  let next = restSeconds;
  return phases.map(({ seconds }) => {
    const start = next;
    next += seconds + pauseSeconds;
    return start;
  });
}

function windowsOf(phases: readonly Phase[], starts: readonly number[]): ExpiryWindow[] {
  return phases.flatMap(({ expiry, seconds }, index) =>
    expiry ? [{ from: starts[index] ?? 0, seconds }] : [],
  );
}

function phaseFigures(
  name: string,
  summaries: readonly Summary[],
  seconds: number,
): Record<string, string> {
  return Object.fromEntries(
    summaries.map(({ ok, okMs }, index) => [
      `${name} (${index + 1})`,
      `${(ok / seconds).toFixed(0)}/s, ${percentilesText(okMs)}`,
    ]),
  );
}

/** How the P99s of some phases compare with those of others, on average. */
function ratio(these: readonly Summary[], others: readonly Summary[]): number {
  const sum = (summaries: readonly Summary[]): number =>
    summaries.reduce((total, { okMs }) => total + okMs.p99, 0);
  return sum(these) / sum(others);
}

/** Of all processes together. */
function cpuSecondsOf(usages: readonly Usage[]): string {
  return usages.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0).toFixed(1);
}
