import assert from 'node:assert/strict';
import { test } from 'node:test';
import { showClocks } from '../../services/runtime/clock-metrics.ts';
import { JudgedTime } from '../../services/runtime/judged-time.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';

const tenMinutesMs = 600_000;

/** Clocks that the test sets. */
function clocks() {
  const at = { monotonicMs: 5_000, hostAheadMs: 0, serverAheadMs: 0, otherAheadMs: 0 };
  const startMs = 1_800_000_000_000;
  const trueMs = (): number => startMs + at.monotonicMs;
  const judged = new JudgedTime({
    monotonicMs: () => at.monotonicMs,
    wallMs: () => trueMs() + at.hostAheadMs,
    preferred: 'mysql',
  });
  const askMysql = (): void => judged.observe('mysql', trueMs() + at.serverAheadMs);
  const askRedis = (): void => judged.observe('redis', trueMs() + at.otherAheadMs);
  return { at, judged, trueMs, askMysql, askRedis };
}

test('one clock alone is no time; two that agree are', () => {
  const { judged, trueMs, askMysql } = clocks();
  assert.equal(judged.nowMs(), undefined);
  askMysql();
  assert.equal(judged.nowMs(), trueMs());
});

test('two clocks that disagree from the start are no time, until a third one decides', () => {
  const { at, judged, trueMs, askMysql, askRedis } = clocks();
  at.serverAheadMs = tenMinutesMs;
  askMysql();
  assert.equal(judged.nowMs(), undefined);
  assert.equal(judged.corrected(trueMs()), undefined);
  askRedis();
  assert.equal(judged.nowMs(), trueMs());
  assert.deepEqual([...judged.wrongClocks()], [['mysql', tenMinutesMs]]);
});

for (const stepMs of [tenMinutesMs, -tenMinutesMs]) {
  test(`a server's clock that steps by ${stepMs} ms is outvoted by what was judged before`, () => {
    const { at, judged, trueMs, askMysql } = clocks();
    askMysql();
    assert.equal(judged.nowMs(), trueMs());
    at.monotonicMs += 1_000;
    at.serverAheadMs = stepMs;
    askMysql();
    assert.equal(judged.nowMs(), trueMs());
    assert.equal(judged.corrected(trueMs() + stepMs), trueMs());
    assert.deepEqual([...judged.wrongClocks()], [['mysql', stepMs]]);
    at.monotonicMs += 3_600_000;
    askMysql();
    assert.equal(judged.nowMs(), trueMs(), 'for as long as it is wrong');
    at.serverAheadMs = 0;
    askMysql();
    assert.deepEqual([...judged.wrongClocks()], []);
  });

  test(`the host's clock that steps by ${stepMs} ms is outvoted, also while no server answers`, () => {
    const { at, judged, trueMs, askMysql } = clocks();
    askMysql();
    at.hostAheadMs = stepMs;
    assert.equal(judged.nowMs(), trueMs());
    at.monotonicMs += 600_000;
    assert.equal(judged.nowMs(), trueMs(), 'what was judged is carried on');
    askMysql();
    assert.equal(judged.nowMs(), trueMs());
    assert.deepEqual([...judged.wrongClocks()], [['host', stepMs]]);
  });
}

test('when all clocks have moved together, such as after the host slept, they are believed', () => {
  const { at, judged, trueMs, askMysql, askRedis } = clocks();
  askMysql();
  askRedis();
  assert.equal(judged.nowMs(), trueMs());
  at.hostAheadMs = tenMinutesMs;
  at.serverAheadMs = tenMinutesMs;
  askMysql();
  assert.equal(judged.nowMs(), trueMs() + tenMinutesMs);
});

test('a clock that is a little off is believed to the millisecond if it is the preferred one', () => {
  const { at, judged, trueMs, askMysql } = clocks();
  at.serverAheadMs = 700;
  askMysql();
  assert.equal(judged.nowMs(), trueMs() + 700);
  assert.equal(judged.corrected(trueMs() + 900), trueMs() + 900);
});

test('the metrics show which clock is wrong and by how much, and whether the time is known', async () => {
  const { at, judged, askMysql, askRedis } = clocks();
  const registry = createMetrics('test');
  showClocks(registry, judged);
  const shown = async (name: string): Promise<unknown> => {
    const { values } = (await registry.registry.getSingleMetric(name)?.get()) ?? { values: [] };
    return values.map(({ labels, value }) => [labels.clock, value]);
  };
  assert.deepEqual(await shown('clocks_judged'), [[undefined, 0]], 'one clock proves nothing');
  askMysql();
  askRedis();
  assert.deepEqual(await shown('clocks_judged'), [[undefined, 1]]);
  assert.deepEqual(await shown('clock_ahead_seconds'), []);
  at.hostAheadMs = tenMinutesMs;
  assert.deepEqual(await shown('clock_ahead_seconds'), [['host', tenMinutesMs / 1_000]]);
});
