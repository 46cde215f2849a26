import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ReadMemory } from '../../services/edge/read-memory.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

/** A memory over a clock that a test moves and reads that it answers by hand. */
function memory({ entriesMax = 100, waitingMax = 10 } = {}) {
  const state = { nowMs: 1_000 };
  const reads: { key: string; answer: (text: string) => void; fail: (error: Error) => void }[] = [];
  const fetch = (key: string): Promise<string> =>
    new Promise((answer, fail) => reads.push({ key, answer, fail }));
  const nowMs = (): number => state.nowMs;
  const read = new ReadMemory({ fetch, entriesMax, waitingMax, nowMs });
  return { state, reads, memory: read };
}

/** Lets promises that are settled be told to those who wait. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a thousand readers of one thing cost one read, and for 200 ms nobody asks again', async () => {
  const { state, reads, memory: read } = memory();
  const readers = Array.from({ length: 1_000 }, () => read.read('a'));
  assert.equal(reads.length, 1);
  state.nowMs += 50;
  reads[0]?.answer('first');
  assert.deepEqual(new Set(await Promise.all(readers)), new Set(['first']));
  // The age counts from the beginning of the read.
  state.nowMs += 149;
  assert.equal(await read.read('a'), 'first');
  state.nowMs += 1;
  const later = read.read('a');
  assert.equal(reads.length, 2);
  reads[1]?.answer('second');
  assert.equal(await later, 'second');
});

test('a refusal is remembered like an answer, a failure is not', async () => {
  const { reads, memory: read } = memory();
  const refused = read.read('a');
  reads[0]?.fail(new Refusal('NOT_FOUND'));
  await assert.rejects(refused, { reason: 'NOT_FOUND' });
  await assert.rejects(read.read('a'), { reason: 'NOT_FOUND' });
  assert.equal(reads.length, 1);
  const failed = read.read('b');
  reads[1]?.fail(new Refusal('DEPENDENCY_DOWN'));
  await assert.rejects(failed, { reason: 'DEPENDENCY_DOWN' });
  const again = read.read('b');
  reads[2]?.answer('well again');
  assert.equal(await again, 'well again');
});

test('things that nobody has read before are read four at a time, and a full queue refuses at once', async () => {
  const { reads, memory: read } = memory({ waitingMax: 10 });
  const waiting = Array.from({ length: 14 }, (_, index) => read.read(`x${index}`));
  assert.equal(reads.length, 4);
  await assert.rejects(read.read('one too many'), { reason: 'OVERLOADED' });
  for (let index = 0; index < 14; index += 1) {
    reads[index]?.answer(`${index}`);
    await settle();
  }
  assert.equal((await Promise.all(waiting)).length, 14);
});

test('who asks for things that do not exist keeps nobody waiting who looks at those that do', async () => {
  const { state, reads, memory: read } = memory();
  const first = read.read('on sale');
  reads[0]?.answer('1');
  await first;
  state.nowMs += 200;
  const strangers = Array.from({ length: 14 }, (_, index) => read.read(`x${index}`));
  const buyer = read.read('on sale');
  const mine = reads.at(-1);
  assert.equal(mine?.key, 'on sale');
  mine?.answer('2');
  assert.equal(await buyer, '2');
  for (let index = 0; index < reads.length; index += 1) {
    reads[index]?.answer('x');
    await settle();
  }
  assert.equal((await Promise.all(strangers)).length, 14);
});

test('what could not be read for a second is refused, and the queue is empty at once', async () => {
  const { state, reads, memory: read } = memory();
  const waiting = Array.from({ length: 12 }, (_, index) => read.read(`x${index}`));
  const outcomes = Promise.allSettled(waiting);
  state.nowMs += 1_001;
  for (const { answer } of reads.slice(0, 4)) answer('late');
  const statuses = (await outcomes).map(({ status }) => status);
  assert.equal(statuses.filter((status) => status === 'fulfilled').length, 4);
  assert.equal(reads.length, 4, 'the others were not read');
});

test('so many answers are remembered and no more, and none under an endless key', async () => {
  const { reads, memory: read } = memory({ entriesMax: 2 });
  const long = 'k'.repeat(300);
  for (const key of ['a', 'b', 'c', long]) {
    const answer = read.read(key);
    reads.at(-1)?.answer(key);
    await answer;
  }
  assert.equal(reads.length, 4);
  await read.read('c');
  assert.equal(reads.length, 4, 'the newest is remembered');
  for (const key of ['a', long]) {
    const answer = read.read(key);
    reads.at(-1)?.answer(key);
    await answer;
  }
  assert.equal(reads.length, 6, 'the oldest is not, nor what had the endless key');
});
