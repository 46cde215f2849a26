import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { eventually } from '../support/eventually.ts';
import { startStockSystem } from './support.ts';

const system = await startStockSystem('cost', { SLUICE_SETTLE_AGE_MS: '15000' });
after(() => system.close());

const skuCount = 2_000;
const copies = 5;
const bounds = { withinMs: 120_000, everyMs: 100 };

async function createSkus(): Promise<void> {
  const values = Array.from({ length: skuCount }, (_, index) => {
    return `(${index + 1}, '', 'USD', 1, 0, 0, 1, 70, 70, 0, 0, 0, '', NOW(3), NOW(3))`;
  });
  await system.pool.query(`INSERT INTO skus (sku_id, title, currency, unit_price_minor,
    limit_per_user, paused, settings_version, supplied, available, held, sold, epoch,
    creation_digest, create_time, update_time) VALUES ${values.join(',')}`);
}

async function allOpen(): Promise<boolean> {
  const pipeline = system.redis.pipeline();
  for (let skuId = 1; skuId <= skuCount; skuId += 1) pipeline.hget(`{sku:${skuId}}:meta`, 'state');
  const replies = (await pipeline.exec()) ?? [];
  return replies.every(([, state]) => state === 'open');
}

/** Counts by connection what is asked of the gates' pending lists, which each look at a gate does once. */
function countLooks(): { of: Map<string, number>; stop(): void } {
  const of = new Map<string, number>();
  const { port } = system.redis.options;
  const socket = connect(port as number, '127.0.0.1', () => socket.write('MONITOR\r\n'));
  createInterface({ input: socket }).on('line', (line) => {
    const [, source, command = ''] = /\[0 ([^\]]+)\] "(\w+)"/.exec(line) ?? [];
    if (source === undefined || !/^(zcard|zrangebyscore)$/i.test(command)) return;
    of.set(source, (of.get(source) ?? 0) + 1);
  });
  return { of, stop: () => socket.destroy() };
}

test(`${copies} copies ask Redis about ${skuCount} SKUs hardly more often than one`, async () => {
  await createSkus();
  for (let copy = 1; copy < copies; copy += 1) await system.startCopy();
  await eventually(allOpen, 'all gates are open', bounds);
  const looks = countLooks();
  try {
    const counts = (): number[] => [...looks.of.values()].sort((a, b) => b - a);
    // Each round looks at every gate, and so does each look for pending lines.
    await eventually(() => (counts()[0] ?? 0) >= 6 * skuCount, 'one copy looks after all', bounds);
    const [keeper = 0, ...others] = counts();
    const rest = others.reduce((sum, one) => sum + one, 0);
    assert.ok(rest <= keeper, `the others asked ${rest} times, the keeper ${keeper} times`);
  } finally {
    looks.stop();
  }
});
