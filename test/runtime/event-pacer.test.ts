import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventPacer } from '../../services/runtime/event-pacer.ts';

test('the next batch begins when the time of the events before it has passed', () => {
  const pacer = new EventPacer(1_000);
  assert.equal(pacer.reserve(500, 10_000), 10_000);
  assert.equal(pacer.reserve(100, 10_050), 10_500);
  assert.equal(pacer.reserve(1, 10_050), 10_600);
});

test('a pause is not made good by a burst', () => {
  const pacer = new EventPacer(100);
  pacer.reserve(10, 0);
  assert.equal(pacer.reserve(10, 60_000), 60_000);
  assert.equal(pacer.reserve(10, 60_000), 60_100);
});

test('without a limit nothing waits', () => {
  const pacer = new EventPacer(undefined);
  pacer.reserve(1_000_000, 5);
  assert.equal(pacer.reserve(1_000_000, 5), 5);
});
