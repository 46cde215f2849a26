import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Attempt, assertRecovered, assertUnharmed, runTrial } from './harness.ts';

test('the harness sees who was harmed, when, and who recovered', async () => {
  let broken = false;
  const made: Attempt = { outcome: 'made' };
  const phases = await runTrial({
    groups: {
      healthy: { perSecond: 100, send: async () => made },
      victims: {
        perSecond: 100,
        send: async () => (broken ? { outcome: 'unserved', reason: 'DEPENDENCY_DOWN' } : made),
      },
      slow: {
        perSecond: 100,
        async send() {
          if (broken) await sleep(1_300);
          return made;
        },
      },
      throwing: {
        perSecond: 20,
        async send() {
          if (broken) throw new Error('no answer');
          return made;
        },
      },
    },
    bad: {
      async on() {
        broken = true;
      },
      async off() {
        broken = false;
      },
    },
    beforeMs: 300,
    graceMs: 100,
    duringMs: 400,
    recoveryMs: 50,
    afterMs: 300,
  });
  assertUnharmed(phases.healthy);
  assert.throws(() => assertUnharmed(phases.victims), /all that the others sent was made/);
  assert.throws(() => assertUnharmed(phases.slow), /P99 of the others is at most 1000 ms/);
  // What is due at the very end may be sent a moment behind it.
  const { sent, unserved } = phases.victims.during;
  assert.ok(unserved >= sent * 0.8, `${unserved} of ${sent}`);
  assert.deepEqual(Object.keys(phases.victims.during.reasons), ['DEPENDENCY_DOWN']);
  assert.ok(phases.victims.grace.sent > 0 && phases.victims.before.made > 0);
  assert.ok(phases.throwing.during.unknown >= phases.throwing.during.sent * 0.7);
  for (const [name, one] of Object.entries(phases)) assertRecovered(one, name);
});
