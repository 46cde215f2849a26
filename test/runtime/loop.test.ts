import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLog } from '../../services/runtime/log.ts';
import { loopAgesMs, startLoop } from '../../services/runtime/loop.ts';
import { createMetrics } from '../../services/runtime/metrics.ts';
import { eventually } from '../support/eventually.ts';

const log = createLog('test', 'silent');

async function ageOf(loop: string): Promise<number | undefined> {
  const metric = createMetrics('test').registry.getSingleMetric('loop_age_seconds');
  const { values } = (await metric?.get()) ?? { values: [] };
  return values.find(({ labels }) => labels.loop === loop)?.value;
}

test('the age of a loop rises while it fails or hangs, falls when it succeeds, and ends with it', async () => {
  let behave: () => Promise<void> = async () => {};
  const loop = startLoop({ name: 'tested', intervalMs: 5, log, run: () => behave() });
  try {
    behave = () => Promise.reject(new Error('it fails'));
    await eventually(async () => ((await ageOf('tested')) ?? 0) > 0.1, 'it fails for a while');
    let finish: () => void = () => undefined;
    const hanging = new Promise<void>((resolve) => {
      finish = resolve;
    });
    behave = () => hanging;
    await eventually(async () => ((await ageOf('tested')) ?? 0) > 0.3, 'it hangs for a while');
    behave = async () => {};
    finish();
    await eventually(async () => ((await ageOf('tested')) ?? 1) < 0.1, 'it succeeds again');
  } finally {
    await loop.stop();
  }
  assert.equal(loopAgesMs().has('tested'), false);
});
