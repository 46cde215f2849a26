import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startClaimedWork } from '../../services/runtime/claimed-work.ts';
import { createLog } from '../../services/runtime/log.ts';
import { loopAgesMs } from '../../services/runtime/loop.ts';
import { eventually } from '../support/eventually.ts';

const log = createLog('test', 'silent');

/** Work that waits in a list, and is claimed from it. */
function listOf(count: number) {
  const due = Array.from({ length: count }, (_, index) => index);
  const claims: number[] = [];
  return {
    due,
    claims,
    async claim(max: number): Promise<number[]> {
      claims.push(max);
      return due.splice(0, max);
    },
  };
}

test('never more than its slots are under way, and all is done', async () => {
  const list = listOf(200);
  const done: number[] = [];
  let underWay = 0;
  let most = 0;
  const work = startClaimedWork<number>({
    ...{ name: 'slots', intervalMs: 1_000, slots: 8, slowMax: 0, log, claim: list.claim },
    async run(item) {
      underWay += 1;
      most = Math.max(most, underWay);
      await sleep(1);
      underWay -= 1;
      done.push(item);
    },
  });
  await eventually(() => done.length === 200, 'all is done');
  await work.stop();
  assert(most <= 8, `${most} at once`);
  assert(Math.max(...list.claims) <= 8);
});

test('an item that hangs holds up its own slot, and after a second not even that', async () => {
  const list = listOf(40);
  const done: number[] = [];
  const held = Promise.withResolvers<void>();
  const work = startClaimedWork<number>({
    ...{ name: 'hangs', intervalMs: 50, slots: 2, log, claim: list.claim },
    async run(item) {
      // The first four take both slots, twice.
      if (item < 4) await held.promise;
      done.push(item);
    },
  });
  await eventually(() => done.length === 36, 'the others are done');
  held.resolve();
  await eventually(() => done.length === 40, 'all is done');
  await work.stop();
});

test('those that hang are bounded, too', async () => {
  const list = listOf(40);
  const held = Promise.withResolvers<void>();
  let begun = 0;
  const work = startClaimedWork<number>({
    ...{ name: 'bounded', intervalMs: 50, slots: 2, slowMax: 3, log, claim: list.claim },
    async run() {
      begun += 1;
      await held.promise;
    },
  });
  await eventually(() => begun === 5, 'so many hang');
  await sleep(1_500);
  assert.equal(begun, 5);
  held.resolve();
  await eventually(() => begun === 40, 'the others follow');
  await work.stop();
});

test('its age rises while attempts fail, and not while one succeeds now and then', async () => {
  const list = listOf(0);
  let fails = true;
  const work = startClaimedWork<number>({
    ...{ name: 'ages', intervalMs: 20, slots: 2, log, claim: list.claim },
    async run() {
      if (fails) throw new Error('not this time');
    },
  });
  const ageMs = (): number => loopAgesMs().get('ages') ?? Number.NaN;
  list.due.push(1);
  await eventually(() => {
    list.due.push(1);
    return ageMs() > 500;
  }, 'it is old');
  fails = false;
  list.due.push(1);
  await eventually(() => ageMs() < 500, 'it is young');
  await work.stop();
});

test('its age is young also while there is always more to do', async () => {
  const work = startClaimedWork<number>({
    ...{ name: 'busy', intervalMs: 20, slots: 4, log },
    claim: async (max) => Array.from({ length: max }, () => 1),
    run: () => sleep(2),
  });
  let oldest = 0;
  const began = performance.now();
  while (performance.now() - began < 4_000) {
    await sleep(50);
    oldest = Math.max(oldest, loopAgesMs().get('busy') ?? 0);
  }
  await work.stop();
  // A round ends after a second; without that the age would be four.
  assert(oldest < 3_000, `${oldest} ms`);
});

test('a claim that fails is tried again', async () => {
  const list = listOf(3);
  const done: number[] = [];
  let claims = 0;
  const work = startClaimedWork<number>({
    ...{ name: 'claims', intervalMs: 10, slots: 4, log },
    async claim(max) {
      claims += 1;
      if (claims < 3) throw new Error('the database is away');
      return await list.claim(max);
    },
    run: async (item) => void done.push(item),
  });
  await eventually(() => done.length === 3, 'all is done');
  await work.stop();
});

test('a stop waits for what is under way, and gives back what it has claimed meanwhile', async () => {
  const claimed = Promise.withResolvers<number[]>();
  const released: number[] = [];
  const held = Promise.withResolvers<void>();
  let claims = 0;
  let ended = 0;
  const work = startClaimedWork<number>({
    ...{ name: 'stops', intervalMs: 10, slots: 4, log },
    async claim() {
      claims += 1;
      return claims === 1 ? [1] : await claimed.promise;
    },
    async run() {
      await held.promise;
      ended += 1;
    },
    release: async (items) => void released.push(...items),
  });
  await eventually(() => claims === 2, 'the second claim is under way');
  const stopped = work.stop();
  claimed.resolve([2, 3]);
  await eventually(() => released.length === 2, 'they are given back');
  assert.equal(ended, 0);
  held.resolve();
  await stopped;
  assert.equal(ended, 1);
  assert.deepEqual(released, [2, 3]);
});
