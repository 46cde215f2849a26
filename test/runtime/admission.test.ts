import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Admission, weightOf } from '../../services/runtime/admission.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

const overloaded = (error: unknown): boolean =>
  error instanceof Refusal && error.reason === 'OVERLOADED' && error.retryAfterMs > 0;

/** A system of a known capacity behind the door, on a clock that the test moves; each takes `aloneMs` at least. */
function simulate(
  perSecond: number,
  options: Partial<ConstructorParameters<typeof Admission>[0]> & { readonly aloneMs?: number } = {},
) {
  let nowMs = 0;
  let freeAtMs = 0;
  const { aloneMs = 5, ...others } = options;
  const ends: { readonly atMs: number; readonly tookMs: number }[] = [];
  const admission = new Admission({
    ...{ targetMs: 100, startLimit: 1_000, limitMin: 10, limitMax: 100_000 },
    monotonicMs: () => nowMs,
    ...others,
  });
  const state = { perSecond, admission };
  function offer(): boolean {
    try {
      admission.enter(1);
    } catch (error) {
      assert.ok(overloaded(error));
      return false;
    }
    // One after the other, each for its share of a second, and some time on its way.
    freeAtMs = Math.max(freeAtMs, nowMs) + 1_000 / state.perSecond;
    ends.push({ atMs: freeAtMs + aloneMs, tookMs: freeAtMs + aloneMs - nowMs });
    return true;
  }
  /** Offers at a rate for some seconds; answers what was made of it, and how long the slowest took. */
  function run(rate: number, seconds: number) {
    let refused = 0;
    let made = 0;
    let slowestMs = 0;
    const untilMs = nowMs + seconds * 1_000;
    const stepMs = 1_000 / rate;
    while (nowMs < untilMs) {
      nowMs += stepMs;
      while (ends[0] !== undefined && ends[0].atMs <= nowMs) {
        const { tookMs } = ends.shift() as { tookMs: number };
        made += 1;
        slowestMs = Math.max(slowestMs, tookMs);
        admission.leave(tookMs);
      }
      if (!offer()) refused += 1;
    }
    return { made, refused, slowestMs };
  }
  return { state, admission, run };
}

test('below the capacity nobody is refused', () => {
  const { run } = simulate(1_000);
  assert.equal(run(800, 10).refused, 0);
});

test('three times the capacity: nearly all of it is made, in time, and the rest is refused', () => {
  const { run } = simulate(1_000);
  run(3_000, 10);
  const { made, refused, slowestMs } = run(3_000, 10);
  assert.ok(made >= 9_500, `${made} of 10,000 that could be made`);
  assert.ok(refused >= 19_000);
  assert.ok(slowestMs <= 200, `the slowest took ${slowestMs} ms`);
});

test('a system that becomes slower, and then faster again, has its limit follow', () => {
  const { state, run, admission } = simulate(2_000);
  run(6_000, 10);
  const before = admission.limit;
  state.perSecond = 200;
  run(6_000, 10);
  assert.ok(admission.limit < before / 3, `${admission.limit} after ${before}`);
  const slow = run(6_000, 10);
  assert.ok(slow.slowestMs <= 400, `the slowest took ${slow.slowestMs} ms`);
  state.perSecond = 2_000;
  run(6_000, 15);
  assert.ok(run(6_000, 10).made >= 18_000, 'it serves what it can again');
});

test('a batch comes in wholly or not at all, and one that is larger than the limit comes in alone', () => {
  const admission = new Admission({
    ...{ targetMs: 100, startLimit: 100, limitMin: 10, limitMax: 1_000 },
  });
  admission.enter(60);
  assert.throws(() => admission.enter(60), overloaded);
  assert.equal(admission.underWay, 60);
  admission.enter(40);
  for (let count = 0; count < 100; count += 1) admission.leave(undefined);
  admission.enter(500);
  assert.throws(() => admission.enter(1), overloaded);
});

test('the limit stays within its bounds, and what was refused for its own reasons says nothing', () => {
  let nowMs = 0;
  const admission = new Admission({
    ...{ targetMs: 100, startLimit: 50, limitMin: 20, limitMax: 60 },
    monotonicMs: () => nowMs,
  });
  const pass = (tookMs: number | undefined): void => {
    for (let window = 0; window < 50; window += 1) {
      for (let count = 0; count < 20; count += 1) admission.enter(1);
      for (let count = 0; count < 20; count += 1) admission.leave(tookMs);
      nowMs += 250;
    }
  };
  pass(undefined);
  assert.equal(admission.limit, 50);
  pass(5);
  pass(900);
  assert.equal(admission.limit, 20);
  pass(5);
  assert.ok(admission.limit <= 60);
});

test('where each takes longer than the target even alone, the door does not narrow to a crack', () => {
  const { run } = simulate(1_000, { aloneMs: 200, few: 400 });
  assert.equal(run(250, 10).refused, 0, 'nobody is refused while there is room');
  run(3_000, 20);
  const { made, slowestMs } = run(3_000, 20);
  assert.ok(made >= 17_000, `${made} of 20,000 that could be made`);
  assert.ok(slowestMs <= 1_000, `the slowest took ${slowestMs} ms`);
});

test('entries of which nobody knows what became narrow the door only if nothing is carried out', () => {
  let nowMs = 0;
  const admission = new Admission({
    ...{ targetMs: 100, startLimit: 500, limitMin: 20, limitMax: 1_000 },
    monotonicMs: () => nowMs,
  });
  const pass = (made: number, lost: number): void => {
    for (let window = 0; window < 50; window += 1) {
      admission.enter(made + lost);
      for (let count = 0; count < made; count += 1) admission.leave(10);
      for (let count = 0; count < lost; count += 1) admission.lose();
      nowMs += 250;
    }
  };
  pass(20, 20);
  assert.equal(admission.limit, 500);
  pass(0, 20);
  assert.equal(admission.limit, 20);
  assert.equal(admission.underWay, 0);
});

test('large entries have a quarter of the limit among them, and ordinary ones the rest', () => {
  const admission = new Admission({
    ...{ targetMs: 100, startLimit: 100, limitMin: 10, limitMax: 1_000 },
    monotonicMs: () => 0,
  });
  for (let count = 0; count < 5; count += 1) admission.enterLarge(5);
  assert.throws(() => admission.enterLarge(5), overloaded);
  admission.enter(75);
  assert.throws(() => admission.enter(1), overloaded);
  assert.equal(admission.underWay, 80);
  admission.leaveLarge(5);
  admission.enterLarge(5);
  for (let count = 0; count < 5; count += 1) admission.leaveLarge(5);
  admission.enter(25);
  assert.throws(() => admission.enterLarge(5), overloaded);
});

test('a large entry that is larger than the share comes in alone, and keeps no ordinary ones out', () => {
  const admission = new Admission({
    ...{ targetMs: 100, startLimit: 100, limitMin: 10, limitMax: 1_000 },
    monotonicMs: () => 0,
  });
  admission.enterLarge(500);
  assert.throws(() => admission.enterLarge(2), overloaded);
  admission.enter(75);
  assert.throws(() => admission.enter(1), overloaded);
});

test('an entry weighs by its parts', () => {
  assert.deepEqual([0, 1, 4, 5, 8, 20].map(weightOf), [1, 1, 1, 5, 8, 20]);
});
