import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type BatchContext, Batcher } from '../../services/runtime/batcher.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

const later = (): Deadline => Deadline.after(60_000);

interface Held {
  readonly entries: number[];
  readonly context: BatchContext<number>;
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
    run: (entries, context) =>
      new Promise((resolve, reject) => {
        batches.push({
          entries,
          context,
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

test('a batch that hangs holds up its own entries alone, and so many of them hold up the lane', async () => {
  const { batcher, batches, batch } = heldBatcher({ slowAfterMs: 50, slowMax: 2 });
  const done = [batcher.add(1, later())];
  await batch(0);
  for (const entry of [2, 3]) {
    done.push(batcher.add(entry, later()));
    assert.deepEqual((await batch(entry - 1)).entries, [entry], 'it goes beside those that hang');
  }
  done.push(batcher.add(4, later()));
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(batches.length, 3, 'two are passed over for being slow, the third counts');
  (await batch(0)).finish();
  (await batch(3)).finish();
  for (const index of [1, 2]) (await batch(index)).finish();
  assert.deepEqual(await Promise.all(done), [10, 20, 30, 40]);
  await batcher.close();
});

test('an entry can be answered before its batch is done, and only once', async () => {
  const { batcher, batch } = heldBatcher({});
  const early = batcher.add(1, later());
  const late = batcher.add(2, later());
  const failing = batcher.add(3, later());
  const held = await batch(0);
  held.context.answer(0, 11);
  assert.equal(await early, 11);
  held.context.answer(2, new Refusal('OUTCOME_UNKNOWN'));
  await assert.rejects(failing, hasReason('OUTCOME_UNKNOWN'));
  held.finish([10, 20, 30]);
  assert.equal(await late, 20);
  await batcher.close();
});

test('a patient caller does not lengthen what a batch may take', async () => {
  const { batcher, batch } = heldBatcher({ runMsMax: 1_000 });
  const patient = batcher.add(1, later());
  const held = await batch(0);
  assert.ok(held.context.deadline.leftMs() <= 1_000);
  held.finish();
  assert.equal(await patient, 10);
  await batcher.close();
});

test('once a queue is old the newest entries go first, and those that waited too long are refused', async () => {
  const { batcher, batch } = heldBatcher({
    entriesMax: 2,
    newestFirstAfterMs: 20,
    ageMaxMs: 60_000,
  });
  const first = batcher.add(1, later());
  const one = await batch(0);
  const waiting = [2, 3, 4, 5].map((entry) => batcher.add(entry, later()));
  await new Promise((resolve) => setTimeout(resolve, 60));
  one.finish();
  const two = await batch(1);
  assert.deepEqual(two.entries, [4, 5]);
  two.finish();
  (await batch(2)).finish();
  assert.deepEqual(await Promise.all([first, ...waiting]), [10, 20, 30, 40, 50]);
  await batcher.close();

  const aged = heldBatcher({ ageMaxMs: 50 });
  const underWay = aged.batcher.add(1, later());
  const held = await aged.batch(0);
  await assert.rejects(aged.batcher.add(2, later()), hasReason('OVERLOADED'));
  held.finish();
  assert.equal(await underWay, 10);
  await aged.batcher.close();
});

test('an entry with less time than the work needs is refused before it is begun', async () => {
  const { batcher, batch } = heldBatcher({ needMs: () => 30_000 });
  const hurried = batcher.add(1, Deadline.after(20_000));
  const patient = batcher.add(2, later());
  await assert.rejects(hurried, hasReason('OVERLOADED'));
  const held = await batch(0);
  assert.deepEqual(held.entries, [2]);
  held.finish();
  assert.equal(await patient, 20);
  await batcher.close();
});

test('a lane says what an entry will probably take: longer behind a queue, and while a batch hangs', async () => {
  const { batcher, batch } = heldBatcher({ entriesMax: 1 });
  assert.equal(batcher.expectedMs(), 0, 'nothing is known of a lane that was never used');
  const first = batcher.add(1, later());
  const one = await batch(0);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const alone = batcher.expectedMs();
  const rest = [2, 3, 4].map((entry) => batcher.add(entry, later()));
  const behindThree = batcher.expectedMs();
  assert.ok(alone >= 100, `${alone} ms while a batch has been under way for 100 ms`);
  assert.ok(behindThree >= alone * 2, `${behindThree} ms behind three more`);
  one.finish();
  for (const index of [1, 2, 3]) (await batch(index)).finish();
  await Promise.all([first, ...rest]);
  await batcher.close();
});

test('a batch that hangs says nothing of those to come once one that began after it was carried out', async () => {
  const { batcher, batch } = heldBatcher({ entriesMax: 1, slowAfterMs: 100 });
  const hanging = batcher.add(1, later());
  const one = await batch(0);
  const hungFromMs = performance.now();
  const next = batcher.add(2, later());
  const two = await batch(1);
  const ageMs = performance.now() - hungFromMs;
  assert.ok(batcher.expectedMs() >= ageMs, 'as long as nothing was carried out since');
  // A failure is no sign that the others fare better.
  two.fail(new Error('lost as well'));
  await assert.rejects(next);
  assert.ok(batcher.expectedMs() >= ageMs, 'nor after a failure');
  for (const index of [2, 3, 4, 5]) {
    const more = batcher.add(index, later());
    (await batch(index)).finish();
    await more;
  }
  const hungMs = performance.now() - hungFromMs;
  assert.ok(batcher.expectedMs() < hungMs, `${batcher.expectedMs()} ms beside one that hangs`);
  const before = batcher.expectedMs();
  one.finish();
  await hanging;
  assert.ok(batcher.expectedMs() <= before, 'nor when it ends at last');
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
