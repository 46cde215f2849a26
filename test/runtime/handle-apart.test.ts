import assert from 'node:assert/strict';
import { test } from 'node:test';
import { blameOf } from '../../services/runtime/blame.ts';
import { HandleApart } from '../../services/runtime/handle-apart.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { NotTried, SomeFailed } from '../../services/runtime/some-failed.ts';

const bounds = { wholeMs: 10_000, partMs: 3_000, searchMs: 60_000 };
const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

/** Work on numbers that fails, whole, if one of them is bad; it counts its calls and how many run at once. */
function workOn(bad: (number: number) => Error | undefined) {
  const seen = { calls: 0, atOnce: 0, mostAtOnce: 0, done: new Set<number>() };
  const apart = new HandleApart<number>(async (some) => {
    seen.calls += 1;
    seen.atOnce += 1;
    seen.mostAtOnce = Math.max(seen.mostAtOnce, seen.atOnce);
    await new Promise(setImmediate);
    seen.atOnce -= 1;
    for (const one of some) {
      const error = bad(one);
      if (error) throw error;
    }
    for (const one of some) seen.done.add(one);
  });
  return { seen, apart };
}

const mysqlError = (errno: number): Error => Object.assign(new Error(`errno ${errno}`), { errno });

test('entries that all succeed cost one call', async () => {
  const { seen, apart } = workOn(() => undefined);
  const { failed, untried } = await apart.handle(numbers(400), bounds);
  assert.deepEqual([seen.calls, seen.done.size, failed.size, untried.length], [1, 400, 0, 0]);
});

test('one bad entry in 400 is found in a few calls, one after the other, and the others take effect', async () => {
  for (const bad of [0, 48, 237, 399]) {
    const { seen, apart } = workOn((one) => (one === bad ? new TypeError('bad') : undefined));
    const { failed, untried } = await apart.handle(numbers(400), bounds);
    assert.deepEqual([[...failed.keys()], untried], [[bad], []]);
    assert.deepEqual([seen.done.size, seen.mostAtOnce], [399, 1]);
    assert.ok(seen.calls <= 30, `${seen.calls} calls`);
  }
});

test('many bad entries are all found, and only they fail', async () => {
  const isBad = (one: number): boolean => one % 7 === 3;
  const { seen, apart } = workOn((one) => (isBad(one) ? mysqlError(1264) : undefined));
  const { failed } = await apart.handle(numbers(500), bounds);
  assert.deepEqual(
    [...failed.keys()].sort((a, b) => a - b),
    numbers(500).filter(isBad),
  );
  assert.equal(seen.done.size, numbers(500).filter((one) => !isBad(one)).length);
});

test('a database that is away is asked twice, and nobody is blamed', async () => {
  const { seen, apart } = workOn(() => new Refusal('DEPENDENCY_DOWN'));
  const { failed, untried, away } = await apart.handle(numbers(400), bounds);
  assert.deepEqual([failed.size, untried.length, seen.calls], [0, 400, 2]);
  assert.ok(away instanceof Refusal);
});

test('an entry that fails as if the database were away is found by what the database serves beside it', async () => {
  const { apart } = workOn((one) => (one === 77 ? mysqlError(1205) : undefined));
  await apart.handle([1, 2], bounds);
  const { failed, untried } = await apart.handle(numbers(400), bounds);
  assert.deepEqual([[...failed.keys()], untried], [[77], []]);
});

test('without an entry that is known to be good any one is tried, another one each time', async () => {
  // Nine of ten are locked; sooner or later a good one is tried, and then all good ones take effect.
  const { seen, apart } = workOn((one) => (one % 10 === 0 ? undefined : mysqlError(1205)));
  for (let round = 0; seen.done.size < 40; round += 1) {
    assert.ok(round < 500, `${seen.done.size} took effect`);
    await apart.handle(numbers(400), bounds);
  }
});

test('a database that only reads serves nobody, whatever succeeded before', async () => {
  let isReadOnly = false;
  const { seen, apart } = workOn((one) => (isReadOnly && one > 0 ? mysqlError(1290) : undefined));
  await apart.handle([0], bounds);
  isReadOnly = true;
  const { failed, untried } = await apart.handle([1, 2, 3], bounds);
  assert.deepEqual([failed.size, untried.length], [0, 3]);
  assert.equal(await apart.servesOthers(mysqlError(1290), bounds), false);
  assert.equal(await apart.servesOthers(mysqlError(1205), bounds), true);
  assert.equal(seen.done.size, 1);
});

test('a search that takes too long leaves the rest untried', async () => {
  const { apart } = workOn((one) => (one % 2 === 0 ? new TypeError('bad') : undefined));
  const { failed, untried } = await apart.handle(numbers(100), { ...bounds, searchMs: -1 });
  assert.deepEqual([failed.size, untried.length], [0, 100]);
});

test('work that names its failures is believed, and what it did not try is not blamed', async () => {
  let calls = 0;
  const apart = new HandleApart<string>(async () => {
    calls += 1;
    const untried = new NotTried(new Refusal('DEPENDENCY_DOWN'));
    throw new SomeFailed(
      new Map<number, unknown>([
        [1, mysqlError(4025)],
        [2, untried],
      ]),
    );
  });
  const { failed, untried, away } = await apart.handle(['a', 'b', 'c'], bounds);
  assert.deepEqual([[...failed.keys()], untried, calls], [['b'], ['c'], 1]);
  assert.ok(away instanceof Refusal);
});

const blames: [string, unknown, ReturnType<typeof blameOf>][] = [
  ['a fault in the code or the data', new TypeError('x'), 'entry'],
  ['a CHECK of MariaDB', mysqlError(4025), 'entry'],
  ['a CHECK of MySQL', mysqlError(3819), 'entry'],
  ['a number out of range', mysqlError(1264), 'entry'],
  ['a trigger of somebody', mysqlError(1644), 'unclear'],
  ['a packet that is too large', mysqlError(1153), 'unclear'],
  ['a lock wait', mysqlError(1205), 'database'],
  ['NOWAIT of MySQL', mysqlError(3572), 'database'],
  ['too many connections', mysqlError(1040), 'database'],
  ['a database that only reads', mysqlError(1792), 'database'],
  ['a full disk', mysqlError(1021), 'database'],
  ['a table that is not migrated yet', mysqlError(1146), 'database'],
  ['a refusal', new Refusal('OUTCOME_UNKNOWN'), 'database'],
  [
    'a connection refused',
    Object.assign(new Error('x'), { code: 'ECONNREFUSED', errno: -111 }),
    'database',
  ],
];
for (const [what, error, blame] of blames) {
  test(`${what} is blamed on: ${blame}`, () => assert.equal(blameOf(error), blame));
}
