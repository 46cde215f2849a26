import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { startOrderBench } from './support.ts';

/** Timers that keep this process alive; a loop has one of them all the time. */
const timers = (): number =>
  process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

test('starts that fail, because the port is in use, leave no loop behind', async () => {
  const bench = await startOrderBench('failed');
  const holder = createServer().listen(0, '127.0.0.1');
  try {
    await once(holder, 'listening');
    const { port } = holder.address() as AddressInfo;
    const before = timers();
    for (let start = 0; start < 3; start += 1) await assert.rejects(bench.start({ port }));
    await eventually(() => timers() <= before, `there are ${before} timers again`);
  } finally {
    holder.close();
    await bench.stop();
  }
});
