import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { eventually } from '../support/eventually.ts';
import {
  type EventsBench,
  facts,
  lifeOf,
  mailedOrders,
  messageOf,
  recount,
  startEventsBench,
  statistics,
} from './support.ts';

let bench: EventsBench;
const published: OrderEvent[] = [];

before(async () => {
  bench = await startEventsBench('pacing');
});
after(() => bench?.close());

async function publish(orderId: bigint, copies = 1): Promise<void> {
  const life = lifeOf(orderId);
  published.push(...life);
  await bench.publish(Array.from({ length: copies }, () => life.map(messageOf)).flat());
}

async function expectMail(orderId: bigint): Promise<void> {
  const mailed = async (): Promise<boolean> => (await mailedOrders(bench.pool)).includes(orderId);
  await eventually(mailed, `the mail of order ${orderId} is noted`);
}

async function hasEffects(): Promise<boolean> {
  const text = (figures: object): string => JSON.stringify(Object.entries(figures).sort());
  const orders = new Set(published.map(({ orderId }) => orderId)).size;
  const lines = Object.keys(await facts(bench.warehouse)).length;
  return text(await statistics(bench.pool)) === text(recount(published)) && lines === orders * 2;
}

test('statistics and warehouse wait their time, mails do not, and a stop does not wait', {
  timeout: 300_000,
}, async () => {
  const paced = await bench.start({}, { SLUICE_EVENTS_PER_SECOND: '1' });
  // One key, so one batch of one partition, whose time is minutes.
  await publish(2n, 200);
  await eventually(hasEffects, 'the first batch has its effects');
  await publish(7n);
  await expectMail(7n);
  await publish(12n);
  await expectMail(12n);
  assert.equal(await hasEffects(), false, 'the events after it wait');
  await paced.lifecycle.stop();
  await bench.start({}, { SLUICE_EVENTS_PER_SECOND: '0' });
  await eventually(hasEffects, 'without a limit all effects come', { withinMs: 120_000 });
});
