import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OrderIdGenerator, type WorkerLease } from '../../services/order/id-generator.ts';
import {
  idEpochMs,
  sequenceCount,
  slotOfOrder,
  timeMsOfOrder,
  workerOfOrder,
} from '../../services/order/order-id.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

const startMs = idEpochMs + 1_000_000;

/** A generator whose clocks and lease a test sets by hand. */
function generatorAt(wallMs: number, lease: Partial<WorkerLease> = {}) {
  const state = {
    wallMs,
    monotonicMs: 0,
    lease: {
      workerId: 5,
      validUntilMs: 10_000,
      floorMs: startMs - 1,
      highWaterMs: startMs + 15_000,
      ...lease,
    } as WorkerLease | undefined,
  };
  const clock = { wallMs: () => state.wallMs, monotonicMs: () => state.monotonicMs };
  return { state, generator: new OrderIdGenerator(() => state.lease, clock) };
}

const refusesIds = (error: unknown): boolean =>
  error instanceof Refusal && error.reason === 'DEPENDENCY_DOWN';

test('an id carries the clock, the slot and the leased worker number', () => {
  const { generator } = generatorAt(startMs);
  const id = generator.next(77);
  assert.deepEqual([timeMsOfOrder(id), slotOfOrder(id), workerOfOrder(id)], [startMs, 77, 5]);
});

test('more ids than one millisecond has go on in the next, without a repetition', () => {
  const { generator } = generatorAt(startMs);
  const ids = Array.from({ length: sequenceCount * 3 + 1 }, () => generator.next(1));
  assert.equal(new Set(ids).size, ids.length);
  assert.deepEqual(
    ids,
    [...ids].sort((a, b) => (a < b ? -1 : 1)),
  );
  assert.equal(timeMsOfOrder(ids.at(-1) as bigint), startMs + 3);
});

test('a busy slot does not use up the milliseconds of the others', () => {
  const { generator } = generatorAt(startMs);
  for (let count = 0; count < 1_000; count += 1) generator.next(1);
  assert.equal(timeMsOfOrder(generator.next(2)), startMs);
});

test('a clock that goes back repeats no id and makes none from the past, in any slot', () => {
  const { state, generator } = generatorAt(startMs + 5_000);
  const ids = new Set<bigint>();
  for (let slot = 0; slot < 512; slot += 1) ids.add(generator.next(slot));
  state.wallMs = startMs + 10;
  for (let slot = 0; slot < 1_024; slot += 1) {
    const id = generator.next(slot);
    assert.ok(!ids.has(id));
    assert.ok(timeMsOfOrder(id) >= startMs + 5_000);
    ids.add(id);
  }
});

test('a clock that jumps ahead of the high-water mark makes no ids', () => {
  const { state, generator } = generatorAt(startMs);
  state.wallMs = startMs + 600_000;
  assert.throws(() => generator.next(1), refusesIds);
  state.wallMs = startMs + 1;
  assert.equal(timeMsOfOrder(generator.next(1)), startMs + 1);
});

test('a slot that runs ahead of the clock stops at the high-water mark', () => {
  const { generator } = generatorAt(startMs, { highWaterMs: startMs + 2 });
  for (let count = 0; count < sequenceCount * 3; count += 1) generator.next(9);
  assert.throws(() => generator.next(9), refusesIds);
});

test('ids begin above what an earlier holder of the number may have used', () => {
  const { generator } = generatorAt(startMs, { floorMs: startMs + 700 });
  assert.equal(timeMsOfOrder(generator.next(1)), startMs + 701);
});

test('a process stopped past its lease makes no id when it goes on, until it has a new one', () => {
  const { state, generator } = generatorAt(startMs);
  generator.next(1);
  // While it is stopped the monotonic clock runs on; the lease object is still there.
  state.monotonicMs = 10_000;
  state.wallMs = startMs + 10_000;
  assert.throws(() => generator.next(1), refusesIds);
  state.lease = {
    workerId: 6,
    validUntilMs: 20_000,
    floorMs: 0,
    highWaterMs: startMs + 25_000,
  };
  assert.equal(workerOfOrder(generator.next(1)), 6);
});

test('without a lease no id is made', () => {
  const { state, generator } = generatorAt(startMs);
  state.lease = undefined;
  assert.throws(() => generator.next(1), refusesIds);
});

test('two workers never make the same id in the same milliseconds', () => {
  const one = generatorAt(startMs, { workerId: 1 }).generator;
  const two = generatorAt(startMs, { workerId: 2 }).generator;
  const ids = Array.from({ length: 5_000 }, (_, index) => [
    one.next(index % 3),
    two.next(index % 3),
  ]);
  assert.equal(new Set(ids.flat()).size, 10_000);
});

test('a number leased again after its holder stopped cannot repeat the ids of that holder', () => {
  const first = generatorAt(startMs);
  const ids = new Set(Array.from({ length: 5_000 }, () => first.generator.next(1)));
  const mark = first.state.lease?.highWaterMs as number;
  const second = generatorAt(mark + 1, { floorMs: mark, highWaterMs: mark + 15_000 });
  // The first wakes with a lease that it still believes in: its bound keeps it below the second.
  first.state.wallMs = mark;
  for (let count = 0; count < 64; count += 1) ids.add(first.generator.next(1));
  for (let count = 0; count < 5_000; count += 1) {
    const id = second.generator.next(1);
    assert.ok(!ids.has(id));
  }
});
