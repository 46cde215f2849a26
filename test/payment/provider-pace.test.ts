import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ProviderPace } from '../../services/payment/provider-pace.ts';
import { retryAfterMsOf } from '../../services/payment/provider-refusal.ts';

/** A pace on a clock of its own. */
function paceOf(perSecondMax: number) {
  let nowMs = 1_000_000;
  const pace = new ProviderPace(perSecondMax, () => nowMs);
  return {
    pace,
    now: () => nowMs,
    pass(ms: number) {
      nowMs += ms;
    },
    /** The provider takes calls evenly for some time. */
    take(perSecond: number, ms: number) {
      for (let left = ms; left > 0; left -= 1_000 / perSecond) {
        nowMs += 1_000 / perSecond;
        pace.taken();
      }
    },
  };
}

test('a pace is what is configured until a call is turned away', () => {
  const { pace, take } = paceOf(100);
  take(90, 5_000);
  assert.equal(pace.perSecond, 100);
  assert.equal(pace.pausedMs, 0);
});

test('it is lowered to a little less than what the provider takes, by a half at most at once', () => {
  const { pace, take, now } = paceOf(100);
  take(80, 2_000);
  assert(pace.turnedAway(now(), 0));
  assert(pace.perSecond > 70 && pace.perSecond < 80, `${pace.perSecond}`);
  take(10, 2_000);
  pace.turnedAway(now(), 0);
  assert(pace.perSecond > 35 && pace.perSecond < 40, `${pace.perSecond}`);
});

test('calls that were sent before it was lowered do not lower it again', () => {
  const { pace, now, pass } = paceOf(100);
  const sentMs = now();
  pass(10);
  assert(pace.turnedAway(sentMs, 0));
  const lowered = pace.perSecond;
  for (let count = 0; count < 50; count += 1) assert(!pace.turnedAway(sentMs, 0));
  assert.equal(pace.perSecond, lowered);
});

test('it never falls below one call in a second, and rises to what is configured in the end', () => {
  const { pace, now, pass } = paceOf(1_000);
  for (let count = 0; count < 40; count += 1) {
    pass(10);
    pace.turnedAway(now(), 0);
  }
  assert.equal(pace.perSecond, 1);
  let last = pace.perSecond;
  for (let count = 0; count < 20; count += 1) {
    pass(15_000);
    assert(pace.perSecond >= last);
    last = pace.perSecond;
  }
  assert.equal(last, 1_000);
});

test('it stays low for some seconds, and rises slowly at first', () => {
  const { pace, take, now, pass } = paceOf(100);
  take(25, 2_000);
  pace.turnedAway(now(), 0);
  take(25, 1_000);
  pace.turnedAway(now(), 0);
  const lowered = pace.perSecond;
  pass(4_000);
  assert.equal(pace.perSecond, lowered);
  pass(4_000);
  assert(pace.perSecond > lowered && pace.perSecond < lowered * 1.2, `${pace.perSecond}`);
});

test('nothing is sent for as long as the provider asks to wait, a minute at most', () => {
  const { pace, now, pass } = paceOf(100);
  pace.turnedAway(now(), 3_000);
  assert.equal(pace.pausedMs, 3_000);
  // A shorter wait does not end a longer one.
  pace.turnedAway(now(), 1_000);
  pass(2_000);
  assert.equal(pace.pausedMs, 1_000);
  pass(1_000);
  assert.equal(pace.pausedMs, 0);
  pace.turnedAway(now(), 3_600_000);
  assert.equal(pace.pausedMs, 60_000);
});

const nowMs = Date.parse('2026-11-30T12:00:00Z');
for (const [header, ms] of [
  ['3', 3_000],
  ['0', 0],
  ['-3', 0],
  ['1.5', 0],
  ['soon', 0],
  ['', 0],
  [undefined, 0],
  ['999999999', 3_600_000],
  ['Mon, 30 Nov 2026 12:00:07 GMT', 7_000],
  ['Mon, 30 Nov 2026 11:00:00 GMT', 0],
] as const) {
  test(`"retry-after: ${header}" asks to wait ${ms} ms`, () => {
    assert.equal(retryAfterMsOf(header, nowMs), ms);
  });
}
