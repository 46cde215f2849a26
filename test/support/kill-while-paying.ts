import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from './eventually.ts';
import { type LifeWorkload, startLifeWorkload } from './life-workload.ts';
import type { ServiceProcess } from './service-process.ts';
import type { System } from './system.ts';
import { type Click, runSeed } from './workload.ts';

export interface KillWhilePayingOptions {
  readonly system: System;
  readonly victim: ServiceProcess;
  /** The failpoint at which the victim is killed. */
  readonly place: string;
  /** The hit that kills; by default the second, so that others are under way. */
  readonly hit?: number;
  readonly skuIds: readonly bigint[];
}

/**
 * Kills a process at a named place while whole lives of orders go on, starts it again, and waits until
 * orders are made and paid again. What it left behind is for the caller to check, at rest.
 *
 * @returns what the buyers did and were answered
 */
export async function killWhilePaying(options: KillWhilePayingOptions): Promise<readonly Click[]> {
  const { system, victim, place, hit = 2, skuIds } = options;
  const seed = runSeed();
  console.log(`${place}: seed ${seed} (SLUICE_TEST_SEED)`);
  const workload = startLifeWorkload({
    system,
    seed,
    label: place,
    skuIds,
    users: 60,
    concurrency: 10,
    restMs: 20,
  });
  try {
    await victim.restart({ SLUICE_FAILPOINTS: `${place}:kill@${hit}` });
    const { process: child } = victim;
    await eventually(() => !child.isRunning(), `${place} is reached`, { withinMs: 60_000 });
    assert.equal((await child.exited).signal, 'SIGKILL');
    await sleep(200);
    await victim.restart();
    const paidBefore = paid(workload);
    await eventually(() => paid(workload) >= paidBefore + 3, 'orders are paid again', {
      withinMs: 60_000,
    });
  } finally {
    await workload.stop();
  }
  return workload.history;
}

function paid({ steps }: LifeWorkload): number {
  return steps.filter(({ what, outcome }) => what === 'pay' && outcome.kind === 'ok').length;
}
