import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Batcher } from '../../services/runtime/batcher.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

const later = (): Deadline => Deadline.after(60_000);

interface Held {
  readonly entries: number[];
  finish(results?: readonly (number | Error)[]): void;
  fail(error: Error): void;
}

/** A batcher whose batches stay under way until the test ends them. */
function heldBatcher(options: Partial<ConstructorParameters<typeof Batcher<number, number>>[0]>) {
  const batches: Held[] = [];
  let onBatch: (() => void) | undefined;
  const batcher = new Batcher<number, number>({
    name: 'test',
    entriesMax: 10,
    inFlightMax: 1,
    queueDepthMax: 100,
    ...options,
    run: (entries) =>
      new Promise((resolve, reject) => {
        batches.push({
          entries,
          finish: (results = entries.map((entry) => entry * 10)) => resolve(results),
          fail: reject,
        });
        onBatch?.();
      }),
  });
  const batch = async (index: number): Promise<Held> => {
    while (batches.length <= index) {
      await new Promise<void>((resolve) => {
        onBatch = resolve;
      });
    }
    return batches[index] as Held;
  };
  return { batcher, batches, batch };
}

test('what arrives while a batch is under way goes together as the next one', async () => {
  const { batcher, batch } = heldBatcher({});
  const first = batcher.add(1, later());
  const one = await batch(0);
  const rest = [2, 3, 4].map((entry) => batcher.add(entry, later()));
  one.finish();
  assert.equal(await first, 10);
  const two = await batch(1);
  assert.deepEqual(two.entries, [2, 3, 4]);
  two.finish();
  assert.deepEqual(await Promise.all(rest), [20, 30, 40]);
  await batcher.close();
});

test('a small batch waits for the one under way; one that is large enough, or waited long, goes beside it', async () => {
  const { batcher, batches, batch } = heldBatcher({ inFlightMax: 2, besideMin: 3 });
  const done = [batcher.add(1, later())];
  const one = await batch(0);
  done.push(batcher.add(2, later()), batcher.add(3, later()));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(batches.length, 1, 'two entries are too few to go beside the first');
  done.push(batcher.add(4, later()));
  const two = await batch(1);
  assert.deepEqual(two.entries, [2, 3, 4]);
  two.finish();
  done.push(batcher.add(5, later()));
  const three = await batch(2);
  assert.deepEqual(three.entries, [5], 'nobody waits for ever behind a batch that hangs');
  three.finish();
  one.finish();
  assert.deepEqual(await Promise.all(done), [10, 20, 30, 40, 50]);
  await batcher.close();
});

test('a batch is bounded in entries and in bytes, and a large entry goes alone', async () => {
  const { batcher, batch } = heldBatcher({
    entriesMax: 3,
    bytesMax: 10,
    sizeOf: (entry) => entry,
    inFlightMax: 10,
  });
  const all = [1, 1, 1, 1, 6, 6, 50, 2].map((entry) => batcher.add(entry, later()));
  for (const [index, expected] of [[1, 1, 1], [1, 6], [6], [50], [2]].entries()) {
    const held = await batch(index);
    assert.deepEqual(held.entries, expected);
    held.finish();
  }
  await Promise.all(all);
  await batcher.close();
});

test('entries with different keys never share a batch and do not wait for each other', async () => {
  const { batcher, batch } = heldBatcher({ keyOf: (entry) => entry % 2 });
  const all = [1, 2, 3, 4].map((entry) => batcher.add(entry, later()));
  assert.deepEqual((await batch(0)).entries, [1, 3]);
  assert.deepEqual((await batch(1)).entries, [2, 4]);
  (await batch(1)).finish();
  (await batch(0)).finish();
  assert.deepEqual(await Promise.all(all), [10, 20, 30, 40]);
  await batcher.close();
});

test('a full queue refuses at once as OVERLOADED', async () => {
  const { batcher, batch } = heldBatcher({ queueDepthMax: 2 });
  const first = batcher.add(1, later());
  const one = await batch(0);
  const waiting = [batcher.add(2, later()), batcher.add(3, later())];
  await assert.rejects(batcher.add(4, later()), hasReason('OVERLOADED'));
  one.finish();
  (await batch(1)).finish();
  assert.deepEqual(await Promise.all([first, ...waiting]), [10, 20, 30]);
  await batcher.close();
});

test('an entry whose time ran out in the queue is dropped before it is sent', async () => {
  const { batcher, batch, batches } = heldBatcher({});
  const first = batcher.add(1, later());
  const one = await batch(0);
  await assert.rejects(batcher.add(2, Deadline.after(1)), hasReason('OVERLOADED'));
  const third = batcher.add(3, later());
  one.finish();
  (await batch(1)).finish();
  assert.deepEqual(await Promise.all([first, third]), [10, 30]);
  assert.deepEqual(
    batches.map(({ entries }) => entries),
    [[1], [3]],
  );
  await batcher.close();
});

test('an entry whose time runs out under way is unknown, and its batch goes on', async () => {
  const { batcher, batch } = heldBatcher({});
  // Time enough to be sent, also on a machine that pauses.
  const hurried = batcher.add(1, Deadline.after(2_500));
  const patient = batcher.add(2, later());
  const one = await batch(0);
  await assert.rejects(hurried, hasReason('OUTCOME_UNKNOWN'));
  one.finish();
  assert.equal(await patient, 20);
  await batcher.close();
});

test('one error among the results rejects that entry alone; a failed run rejects its batch', async () => {
  const { batcher, batch } = heldBatcher({});
  const pair = Promise.allSettled([batcher.add(1, later()), batcher.add(2, later())]);
  (await batch(0)).finish([new Refusal('SOLD_OUT'), 20]);
  assert.deepEqual(
    (await pair).map(({ status }) => status),
    ['rejected', 'fulfilled'],
  );
  const next = Promise.allSettled([batcher.add(3, later()), batcher.add(4, later())]);
  (await batch(1)).fail(new Error('broken'));
  assert.deepEqual(
    (await next).map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  const short = batcher.add(5, later());
  (await batch(2)).finish([]);
  await assert.rejects(short, /0 results for 1 entries/);
  await batcher.close();
});

test('closing refuses new entries and waits for those taken in', async () => {
  const { batcher, batch } = heldBatcher({});
  const first = batcher.add(1, later());
  const one = await batch(0);
  const closing = batcher.close();
  await assert.rejects(batcher.add(2, later()), hasReason('OVERLOADED'));
  one.finish();
  await closing;
  assert.equal(await first, 10);
  assert.equal(batcher.size, 0);
});

function hasReason(reason: string): (error: unknown) => boolean {
  return (error) => error instanceof Refusal && error.reason === reason;
}
