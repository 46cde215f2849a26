import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { FailpointError, failpoints } from '../../services/runtime/failpoints.ts';
import { eventually } from '../support/eventually.ts';
import { printedSeed, random, shuffled } from './shuffle.ts';
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

let bench: EventsBench;
const seed = printedSeed();
const published: OrderEvent[] = [];

before(async () => {
  bench = await startEventsBench('consumers');
});

after(async () => {
  failpoints.clear();
  await bench.close();
});

afterEach(() => failpoints.clear());

const slow = { timeout: 300_000 };

async function publish(events: readonly OrderEvent[]): Promise<void> {
  published.push(...events);
  await bench.publish(events.map(messageOf));
}

/** Waits until every effect of what was published is there, and then that none is there twice. */
async function expectEffects(): Promise<void> {
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
  const sorted = (object: object): unknown => Object.entries(object).sort();
  await eventually(
    async () =>
      same(sorted(await statistics(bench.pool)), sorted(recount(published))) &&
      (await mailedOrders(bench.pool)).length === paidOrders(published).length &&
      linesBehind(await facts(bench.warehouse)).length === 0,
    'all effects are there',
    // A group that loses or gets a member stands still meanwhile.
    { withinMs: 120_000 },
  );
  assert.deepEqual(await statistics(bench.pool), recount(published));
  assert.deepEqual(await mailedOrders(bench.pool), paidOrders(published));
  assert.deepEqual(linesBehind(await facts(bench.warehouse)), []);
}

/** Lines of the warehouse that are not at the newest version of their order. */
function linesBehind(lines: Record<string, string>): string[] {
  const newest = new Map<string, number>();
  for (const { orderId, version, items } of published) {
    for (const { skuId } of items) {
      const line = `${orderId}/${skuId}`;
      newest.set(line, Math.max(version, newest.get(line) ?? 0));
    }
  }
  return [...newest]
    .filter(([line, version]) => !lines[line]?.startsWith(`${version} `))
    .map(([line]) => line);
}

async function mailsArrive(): Promise<void> {
  const orders = paidOrders(published);
  const arrived = (orderId: bigint): boolean =>
    bench.mailbox.mails.some(({ text }) => text.includes(`<order-${orderId}@`));
  await eventually(() => orders.every(arrived), 'the mails arrive');
}

test('what is published has its effect in statistics, warehouse and mails', async () => {
  await bench.start();
  await publish(livesOf(1_000n, 50));
  await expectEffects();
  await mailsArrive();
});

test('events published a hundred times, shuffled, have the effects of one', async () => {
  const next = random(seed);
  const events = livesOf(2_000n, 20);
  published.push(...events);
  const copies = shuffled(Array.from({ length: 100 }, () => events).flat(), next);
  await bench.publish(copies.map(messageOf));
  await publish(livesOf(2_100n, 5));
  await expectEffects();
  await mailsArrive();
  assert.equal(bench.mailbox.mails.length, paidOrders(published).length);
});

test(
  'copies that come and go in the middle lose nothing and count nothing twice',
  slow,
  async () => {
    const next = random(seed + 1);
    const lives = shuffled(livesOf(3_000n, 600), next);
    const publishing = (async () => {
      for (let from = 0; from < lives.length; from += 40)
        await publish(lives.slice(from, from + 40));
    })();
    const second = await bench.start();
    const third = await bench.start();
    await second.lifecycle.stop();
    await publishing;
    await third.lifecycle.stop();
    await expectEffects();
  },
);

for (const place of [
  'consumer.before_handle',
  'consumer.after_handle',
  'statistics.before_commit',
]) {
  test(`a consumer that fails at ${place} carries on with the same events`, slow, async () => {
    const groups = new Map<string, number>();
    failpoints.set(place, ({ group }) => {
      const hits = (groups.get(String(group)) ?? 0) + 1;
      groups.set(String(group), hits);
      if (hits <= 2) throw new FailpointError(place);
    });
    const first = 10_000n + BigInt(place.length) * 1_000n;
    await publish(livesOf(first, 40));
    await expectEffects();
    // The effects may be there before the failure behind them.
    const groupsMax = place.startsWith('consumer') ? 3 : 1;
    const failed = () => [...groups.values()].filter((hits) => hits > 2).length === groupsMax;
    await eventually(failed, 'each group has failed and gone on');
    assert.equal(groups.size, groupsMax);
  });
}

test('the process says how far its groups are behind, and that it is ready', async () => {
  const events = await bench.start();
  const url = `http://127.0.0.1:${events.metricsPort}`;
  await eventually(async () => (await fetch(`${url}/readyz`)).ok, 'it is ready');
  await publish(livesOf(60_000n, 5));
  await expectEffects();
  const lags = async (): Promise<string[]> =>
    (await (await fetch(`${url}/metrics`)).text())
      .split('\n')
      .filter((line) => line.startsWith('consumer_lag{'));
  await eventually(async () => {
    const lines = await lags();
    return lines.length === 3 && lines.every((line) => line.endsWith(' 0'));
  }, 'all groups have caught up');
});
