import assert from 'node:assert/strict';
import { after, afterEach, test } from 'node:test';
import { freePort } from '../../deploy/local/port.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { createPool } from '../../services/runtime/mysql.ts';
import { createStockMetrics } from '../../services/stock/stock-metrics.ts';
import { startSweepHolds } from '../../services/stock/sweep-holds.ts';
import { eventually } from '../support/eventually.ts';
import { lockRows } from '../support/locked-rows.ts';
import { metric } from './buyers.ts';
import { newSku, reservation, reserve, shortAge, startStockSystem } from './support.ts';

const system = await startStockSystem('lag', shortAge);
after(() => system.close());
afterEach(() => {
  system.orders.resolve = () => 'LIVE';
});

const lag = (): Promise<number> => metric(system.metricsPort, 'stock_sweep_lag_seconds');
/** Far more than between two rounds of a sweep that works. */
const behindSeconds = 6;

const causes = [
  {
    name: 'an order database that is away',
    begin: async () => {
      system.orders.resolve = () => 'UNDECIDED';
      return undefined;
    },
  },
  {
    name: 'order services that do not answer',
    begin: async () => {
      system.orders.resolve = () => {
        throw new Error('no answer');
      };
      return undefined;
    },
  },
  {
    name: 'a cursor that another transaction keeps locked',
    begin: () => lockRows(system.database, ['SELECT order_id FROM sweep_cursor FOR UPDATE']),
  },
];
for (const { name, begin } of causes) {
  test(`the lag of the sweep rises because of ${name}, and falls afterwards`, async () => {
    const skuId = await newSku(system, 10n);
    await eventually(async () => (await lag()) < behindSeconds, 'the sweep works');
    const bad = await begin();
    try {
      await reserve(system, reservation([skuId]));
      await eventually(async () => (await lag()) > behindSeconds, 'the lag rises');
      const before = await lag();
      await eventually(async () => (await lag()) > before + 1, 'it goes on rising');
    } finally {
      system.orders.resolve = () => 'LIVE';
      await bad?.release();
    }
    await eventually(async () => (await lag()) < behindSeconds, 'the lag falls');
  });
}

const log = createLog('test', 'silent');
const unknowns = [
  { name: 'the ledger was never reached', nowMs: () => Date.now(), reach: false },
  { name: 'the clocks disagree', nowMs: () => undefined, reach: true },
];
for (const { name, nowMs, reach } of unknowns) {
  test(`the lag of a sweep rises while ${name}`, async () => {
    const pool = reach
      ? system.pool
      : createPool(`mysql://root@127.0.0.1:${await freePort()}`, { connectionsMax: 1 });
    const registry = createMetrics('test');
    const metrics = createStockMetrics(registry);
    const sweep = startSweepHolds({
      ...{ pool, metrics, log, settleAgeMs: 1_000 },
      order: { resolve: async () => [], close: () => undefined },
      releaseStock: { release: async () => [] },
      time: { nowMs } as Parameters<typeof startSweepHolds>[0]['time'],
    });
    const shown = async (): Promise<number> => {
      const found = await registry.registry.getSingleMetric('stock_sweep_lag_seconds')?.get();
      return found?.values[0]?.value ?? Number.NaN;
    };
    try {
      await eventually(async () => (await shown()) > 0.5, 'it rises');
      const before = await shown();
      await eventually(async () => (await shown()) > before + 0.5, 'it goes on rising');
      assert.ok((await shown()) < 3_600, 'it counts from the start of the process');
    } finally {
      await sweep.stop();
      if (!reach) await pool.end();
    }
  });
}
