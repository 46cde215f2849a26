import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DisplayStock } from '../../gen/sluice/stock/v1/stock_service.ts';
import { DisplayStockMemory } from '../../services/edge/display-stock.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

/** A memory over a clock and a stock that a test moves by hand. */
function memory() {
  const state = {
    nowMs: 1_000,
    available: 5n,
    calls: [] as bigint[][],
    hold: undefined as Promise<void> | undefined,
  };
  const fetch = async (skuIds: bigint[]): Promise<DisplayStock[]> => {
    state.calls.push(skuIds);
    await state.hold;
    const { available } = state;
    return skuIds.map((skuId) => ({ skuId, loaded: true, available, paused: false }));
  };
  return { state, display: new DisplayStockMemory({ fetch, nowMs: () => state.nowMs }) };
}

test('a figure is fetched once and answered from memory for 200 ms', async () => {
  const { state, display } = memory();
  assert.equal((await display.read([1n]))[0]?.available, 5n);
  state.available = 4n;
  state.nowMs += 199;
  assert.equal((await display.read([1n]))[0]?.available, 5n);
  assert.equal(state.calls.length, 1);
  state.nowMs += 1;
  assert.equal((await display.read([1n]))[0]?.available, 4n);
  assert.equal(state.calls.length, 2);
});

test('the age counts from the start of the fetch, not from its answer', async () => {
  const { state, display } = memory();
  const { promise, resolve } = Promise.withResolvers<void>();
  state.hold = promise;
  const first = display.read([1n]);
  await new Promise(setImmediate);
  state.nowMs += 200;
  resolve();
  await first;
  await display.read([1n]);
  assert.equal(state.calls.length, 2);
});

test('a thousand readers share one call', async () => {
  const { state, display } = memory();
  await Promise.all(Array.from({ length: 1_000 }, () => display.read([1n, 2n])));
  assert.deepEqual(state.calls, [[1n, 2n]]);
});

test('while a call is under way, others wait for the next one, each SKU once', async () => {
  const { state, display } = memory();
  const { promise, resolve } = Promise.withResolvers<void>();
  state.hold = promise;
  const reads = [display.read([1n])];
  await new Promise(setImmediate);
  for (const skuIds of [[2n], [3n, 1n], [2n, 3n]]) reads.push(display.read(skuIds));
  resolve();
  await Promise.all(reads);
  assert.deepEqual(state.calls, [[1n], [2n, 3n]]);
});

test('a call asks for 500 SKUs at most', async () => {
  const { state, display } = memory();
  const skuIds = Array.from({ length: 1_200 }, (_, index) => BigInt(index + 1));
  await display.read(skuIds);
  assert.deepEqual(
    state.calls.map((call) => call.length),
    [500, 500, 200],
  );
});

test('a failed fetch fails its readers and is tried again by the next', async () => {
  const { state, display } = memory();
  state.hold = Promise.reject(new Refusal('DEPENDENCY_DOWN'));
  state.hold.catch(() => {});
  await assert.rejects(display.read([1n]), { reason: 'DEPENDENCY_DOWN' });
  state.hold = undefined;
  assert.equal((await display.read([1n]))[0]?.available, 5n);
});

test('too many SKUs at once are refused, and those taken in are answered', async () => {
  const { display } = memory();
  const first = display.read(Array.from({ length: 5_000 }, (_, index) => BigInt(index + 1)));
  await assert.rejects(display.read([9_999n]), { reason: 'OVERLOADED' });
  assert.equal((await first).length, 5_000);
});
