import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from './compare-with-mysql.ts';
import { createGrpcTarget } from './grpc-target.ts';
import { type LifeReport, percentilesText } from './life-report.ts';
import type { Progress } from './life-scenarios.ts';
import { makeOrders } from './made-orders.ts';
import { offerLoad } from './open-loop.ts';
import type { BenchOptions, Stack } from './options.ts';
import { countStates } from './order-states.ts';
import { type Usage, watchUsage } from './process-usage.ts';
import { Recorder } from './recorder.ts';
import { openSale, type Sale } from './sale.ts';

const defaultRate = 2_000;
/** Orders whose time is over, per second. */
const expiryRate = 2_000;
const settleMaxMs = 60_000;
const cancelled = '5';
const released = '3';

/**
 * Buyers at a fixed rate, first alone and then while other orders come due at 2,000/s; their latencies
 * are compared. The orders that expire were made before, and are given their times in MySQL.
 */
export async function runExpiryScenario(
  { rate = defaultRate, seconds, skus, users, batchEntries }: BenchOptions,
  stack: Stack,
  progress: Progress,
): Promise<LifeReport> {
  const count = expiryRate * seconds;
  const left = await openSale(stack, { skus, users });
  progress(`expiry: making ${count} orders that are to expire`);
  await makeOrders(stack, left, count);
  const sale = await openSale(stack, { skus, users });
  const recorder = new Recorder();
  const target = createGrpcTarget({ address: stack.orderAddress, sale, recorder, batchEntries });
  try {
    progress('expiry: warming up');
    await offerLoad({ target, recorder, rate, seconds: 5 });
    progress(`expiry: buyers alone at ${rate}/s for ${seconds} s`);
    const processes = [...stack.processes, { name: 'load', pid: process.pid }];
    const usageAlone = watchUsage(processes);
    const alone = await offerLoad({ target, recorder, rate, seconds });
    const usedAlone = usageAlone.stop();
    await giveTimes(stack, left, seconds);
    progress(`expiry: buyers at ${rate}/s while ${expiryRate} orders/s expire`);
    const usage = watchUsage(processes);
    const beside = await offerLoad({ target, recorder, rate, seconds });
    const used = usage.stop();
    const atEnd = (await countStates(stack, left)).orders[cancelled] ?? 0;
    const startMs = performance.now();
    let states = await countStates(stack, left);
    while (states.holds[released] !== count && performance.now() - startMs < settleMaxMs) {
      await sleep(250);
      states = await countStates(stack, left);
    }
    const summaries = [alone, beside].map(({ from, to }) => recorder.summary(from, to));
    const [before, during] = summaries as [(typeof summaries)[0], (typeof summaries)[0]];
    const isWhole = states.orders[cancelled] === count && states.holds[released] === count;
    return {
      scenario: 'expiry',
      figures: {
        'bought alone': `${(before.ok / seconds).toFixed(0)}/s, ${percentilesText(before.okMs)}`,
        'bought beside the expiry': `${(during.ok / seconds).toFixed(0)}/s, ${percentilesText(during.okMs)}`,
        'P99 beside / alone': (during.okMs.p99 / before.okMs.p99).toFixed(2),
        'CPU alone, beside': [usedAlone, used].map((one) => `${cpuSecondsOf(one)} s`).join(', '),
        'expired when the buyers ended': `${atEnd} of ${count} (${(atEnd / seconds).toFixed(0)}/s)`,
        'all CANCELLED and given back': `${Math.round(performance.now() - startMs)} ms later`,
      },
      usage: used,
      problems: isWhole ? [] : [`states of the expired: ${JSON.stringify(states)}`],
    };
  } finally {
    await target.close();
  }
}

/** Of all processes together. */
function cpuSecondsOf(usages: readonly Usage[]): string {
  return usages.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0).toFixed(1);
}

/** Spreads the times of the orders over the next seconds, evenly. */
async function giveTimes(stack: Stack, sale: Sale, seconds: number): Promise<void> {
  const { databases, tables } = stack.orderShards;
  for (let database = 0; database < databases; database += 1) {
    const connection = await connect(stack, database, `order_${database}`);
    try {
      for (let table = 0; table < tables; table += 1) {
        await connection.query(
          `UPDATE orders_${String(table).padStart(2, '0')}
           SET expire_time = UTC_TIMESTAMP(3) + INTERVAL FLOOR(RAND() * ?) MICROSECOND
           WHERE user_id BETWEEN ? AND ?`,
          [seconds * 1_000_000, sale.firstUserId, sale.lastUserId],
        );
      }
    } finally {
      await connection.end();
    }
  }
}
