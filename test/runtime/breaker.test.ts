import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { type Breaker, createBreaker } from '../../services/runtime/breaker.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

const lost = new Error('connection lost');
const slow = new Error('no answer in time');
let breaker: Breaker | undefined;

beforeEach(() => mock.timers.enable({ apis: ['setTimeout', 'setInterval'] }));
afterEach(() => {
  breaker?.stop();
  mock.timers.reset();
});

function breakerWith(probe: () => boolean | Promise<boolean>): Breaker {
  const isConnectionLoss = (error: unknown): boolean => error === lost;
  const log = createLog('test', 'silent');
  breaker = createBreaker({ name: 'peer', log, probe, isConnectionLoss });
  return breaker;
}

async function fail(own: Breaker, error: Error, times = 10): Promise<void> {
  for (let time = 0; time < times; time += 1) {
    await assert.rejects(own.fire(() => Promise.reject(error)));
  }
}

/** Lets time pass in steps that each probe of a peer fits into. */
async function pass(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 100) {
    mock.timers.tick(100);
    await Promise.resolve();
    await Promise.resolve();
  }
}

test('a circuit that a lost connection opened closes when there is a connection again', async () => {
  let connected = false;
  const own = breakerWith(() => connected);
  await fail(own, lost);
  await pass(2_000);
  assert.equal(own.open, true);
  await assert.rejects(
    own.fire(async () => 1),
    (error) => error instanceof Refusal && error.reason === 'DEPENDENCY_DOWN',
  );
  connected = true;
  await pass(600);
  assert.equal(own.open, false);
  assert.equal(await own.fire(async () => 1), 1);
});

test('a peer that answers too slowly is left alone for 30 s, also when it was lost before', async () => {
  let connected = false;
  const own = breakerWith(() => connected);
  await fail(own, lost);
  await pass(30_000);
  connected = true;
  // Half-open: one call goes through, and is not answered in time.
  await fail(own, slow, 1);
  await pass(29_000);
  assert.equal(own.open, true);
  await pass(1_500);
  assert.equal(own.open, false);
});

test('a peer that swallows connections is asked for once at a time', async () => {
  let asked = 0;
  const own = breakerWith(() => {
    asked += 1;
    return new Promise(() => undefined);
  });
  await fail(own, lost);
  await pass(5_000);
  assert.equal(asked, 1);
});

test('a refusal that the peer answered, or a bound of ours, counts for no circuit; silence does', async () => {
  const own = breakerWith(() => true);
  const answers = [
    new Refusal('OVERLOADED'),
    new Refusal('RATE_LIMITED'),
    new Refusal('SOLD_OUT'),
    new Refusal('DEPENDENCY_DOWN', 'its own database is away', { answered: true }),
    new Refusal('OUTCOME_UNKNOWN', 'it does not know', { answered: true }),
  ];
  for (const error of answers) await fail(own, error, 30);
  assert.equal(own.open, false);
  await fail(own, new Refusal('OUTCOME_UNKNOWN', 'no answer came'));
  assert.equal(own.open, true);
});
