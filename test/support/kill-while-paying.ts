import assert from 'node:assert/strict';
import { eventually } from './eventually.ts';
import { type LifeWorkload, startLifeWorkload } from './life-workload.ts';
import type { ServiceProcess } from './service-process.ts';
import type { System } from './system.ts';
import { type Click, runSeed } from './workload.ts';

/** A process, and the failpoint at which it is killed. */
export interface Victim {
  readonly process: ServiceProcess;
  readonly place: string;
}

export interface KillWhilePayingOptions {
  readonly system: System;
  readonly victims: readonly Victim[];
  readonly skuIds: readonly bigint[];
}

/** Places off the usual path are reached by chance. */
const reachedWithinMs = 240_000;
const paidWithinMs = 120_000;

/**
 * Kills processes at named places while whole lives of orders go on, starts each again, and waits until
 * orders are made and paid again. What they left behind is for the caller to check, at rest.
 *
 * @returns what the buyers did and were answered
 */
export async function killWhilePaying(options: KillWhilePayingOptions): Promise<readonly Click[]> {
  const { system, victims, skuIds } = options;
  const seed = runSeed();
  const label = victims.map(({ place }) => place).join('+');
  console.log(`${label}: seed ${seed} (SLUICE_TEST_SEED)`);
  const workload = startLifeWorkload({
    system,
    seed,
    label: label.slice(0, 60),
    skuIds,
    users: 60,
    concurrency: 10,
    restMs: 20,
  });
  try {
    await Promise.all(victims.map(killOnce));
    const paidBefore = paid(workload);
    await eventually(() => paid(workload) >= paidBefore + 3, 'orders are paid again', {
      withinMs: paidWithinMs,
    });
  } finally {
    await workload.stop();
  }
  return workload.history;
}

async function killOnce({ process: victim, place }: Victim): Promise<void> {
  await victim.restartToDie(`${place}:kill`);
  const { process: child } = victim;
  const bounds = { withinMs: reachedWithinMs };
  await eventually(() => !child.isRunning(), `${place} is reached`, bounds).finally(async () => {
    await victim.restart();
  });
  assert.equal((await child.exited).signal, 'SIGKILL', place);
}

function paid({ steps }: LifeWorkload): number {
  return steps.filter(({ what, outcome }) => what === 'pay' && outcome.kind === 'ok').length;
}
