import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { compileCacheDir } from '../../deploy/local/places.ts';
import { freePort } from '../../deploy/local/port.ts';
import { type ManagedProcess, spawnLogged, waitUntilReady } from '../../deploy/local/process.ts';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { eventually } from '../support/eventually.ts';
import {
  type EventsBench,
  facts,
  livesOf,
  mailedOrders,
  messageOf,
  paidOrders,
  recount,
  startEventsBench,
  statistics,
} from './support.ts';

const main = join(import.meta.dirname, '../../services/events/main.ts');
let bench: EventsBench;
let dir: string;
let metricsPort: number;
let child: ManagedProcess | undefined;
const published: OrderEvent[] = [];

before(async () => {
  bench = await startEventsBench('killed');
  dir = mkdtempSync(join(tmpdir(), 'sluice-events-'));
  metricsPort = await freePort();
});

after(async () => {
  await child?.stop();
  await bench.close();
  rmSync(dir, { recursive: true, force: true });
});

/** The groups' members that were killed hold up the new ones for seconds, on top of the start. */
const readyMs = 120_000;
const stopMs = 60_000;
const slow = { timeout: 600_000 };

async function spawn(failpoints: string, nice = '0'): Promise<ManagedProcess> {
  return await spawnLogged({
    name: 'events',
    command: 'nice',
    args: ['-n', nice, process.execPath, main],
    logFile: join(dir, 'events.log'),
    env: {
      PATH: process.env.PATH ?? '',
      NODE_COMPILE_CACHE: compileCacheDir,
      ...bench.variables,
      SLUICE_EVENTS_METRICS_PORT: String(metricsPort),
      SLUICE_EVENTS_NICE: '5',
      SLUICE_FAILPOINTS: failpoints,
      SLUICE_THROW_AWAY_DIR: process.env.SLUICE_THROW_AWAY_DIR ?? '',
    },
  });
}

async function untilReady(started: ManagedProcess): Promise<void> {
  const probe = async (): Promise<boolean> =>
    (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok;
  await waitUntilReady({ child: started, probe, timeoutMs: readyMs });
}

const places = [
  'consumer.before_handle:kill@4',
  'consumer.after_handle:kill@2',
  'statistics.before_commit:kill',
  'mail.after_claim:kill',
  'mail.before_send:kill@3',
  'mail.after_send:kill@3',
];
for (const [index, place] of places.entries()) {
  test(`after a kill at ${place} every event has its effect once`, slow, async () => {
    const doomed = await spawn(place);
    child = doomed;
    const events = livesOf(BigInt(1_000 * (index + 1)), 60);
    published.push(...events);
    await bench.publish(events.map(messageOf));
    await eventually(() => !doomed.isRunning(), `${place} is reached`, { withinMs: readyMs });
    assert.equal((await doomed.exited).signal, 'SIGKILL');

    child = await spawn('');
    await untilReady(child);
    // The claims of the dead end now instead of in two minutes; what it had sent to the server is done by now.
    await bench.pool.query(
      'UPDATE confirmation_mails SET next_time = NOW(3) WHERE owner IS NOT NULL',
    );
    const orders = paidOrders(published);
    await eventually(
      async () =>
        (await mailedOrders(bench.pool, 'sent_time IS NOT NULL')).length === orders.length,
      'all mails are sent',
    );
    const lines = new Set(
      published.flatMap((event) => event.items.map((item) => `${event.orderId}/${item.skuId}`)),
    );
    await eventually(
      async () =>
        Object.keys(await facts(bench.warehouse)).length === lines.size &&
        JSON.stringify(Object.entries(await statistics(bench.pool)).sort()) ===
          JSON.stringify(Object.entries(recount(published)).sort()),
      'statistics and warehouse are complete',
    );
    for (const orderId of orders) {
      const mails = bench.mailbox.mails.filter(({ text }) => text.includes(`<order-${orderId}@`));
      assert(mails.length >= 1, `a mail for order ${orderId}`);
    }
    await child.stop(stopMs);
    assert.equal((await child.exited).code, 0);
  });
}

test('a process that stands back further than it has to stays there', async () => {
  child = await spawn('', '12');
  await untilReady(child);
  assert.equal(getPriority(child.pid), 12);
  await child.stop();
});
