import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Registry } from 'prom-client';
import { createAgeGauge } from '../../services/runtime/age-gauge.ts';

test('an age is what the last look found, and rises by itself once nobody looks', async () => {
  const registry = new Registry();
  let nowMs = 0;
  const age = createAgeGauge({
    ...{ name: 'tested_age_seconds', help: 'Tested', labelNames: ['kind'], registry },
    nowMs: () => nowMs,
  });
  const shown = async (): Promise<Record<string, number>> => {
    const { values } = (await registry.getSingleMetric('tested_age_seconds')?.get()) ?? {
      values: [],
    };
    return Object.fromEntries(values.map(({ labels, value }) => [labels.kind, value]));
  };
  assert.deepEqual(await shown(), {});
  age.set({ kind: 'a' }, 3);
  age.set({ kind: 'b' }, 0);
  nowMs = 10_000;
  assert.deepEqual(await shown(), { a: 3, b: 0 }, 'the next look is not late yet');
  age.set({ kind: 'a' }, 4);
  nowMs = 60_000;
  assert.deepEqual(await shown(), { a: 4 + 35, b: 45 });
  age.set({ kind: 'b' }, 0);
  assert.equal((await shown()).b, 0);
});
