import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventTroubles, patienceMs } from '../../services/runtime/event-troubles.ts';

test('an event that fails beside others is set aside after some seconds and several tries', () => {
  const troubles = new EventTroubles();
  let nowMs = 0;
  let tries = 0;
  for (let aside = false; !aside; tries += 1) {
    assert.ok(tries < 100, 'it comes to an end');
    aside = troubles.note('a', true, tries, nowMs);
    if (!aside) {
      assert.equal(troubles.isDue('a', nowMs), false, 'it rests between two tries');
      while (!troubles.isDue('a', nowMs)) nowMs += 10;
    }
  }
  assert.ok(nowMs >= patienceMs && nowMs <= patienceMs + 2_500, `${nowMs} ms`);
  assert.ok(tries >= 4);
});

test('an event that fails while nobody succeeds is never set aside', () => {
  const troubles = new EventTroubles();
  for (let nowMs = 0; nowMs < 3_600_000; nowMs += 2_000) {
    assert.equal(troubles.note('a', false, 0, nowMs), false);
  }
  assert.equal(troubles.note('a', true, 1, 3_600_000), false, 'nor by the first success');
});

test('many tries in a moment are not enough', () => {
  const troubles = new EventTroubles();
  for (let tries = 0; tries < 50; tries += 1) {
    assert.equal(troubles.note('a', true, tries, tries), false);
  }
});

test('an event that succeeded begins anew', () => {
  const troubles = new EventTroubles();
  troubles.note('a', true, 1, 0);
  troubles.note('a', true, 2, 3_000);
  troubles.forget('a');
  assert.deepEqual([troubles.size, troubles.has('a')], [0, false]);
  assert.equal(troubles.note('a', true, 3, 7_000), false);
  assert.equal(troubles.successesOf('a'), 3);
});
