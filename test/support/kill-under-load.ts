import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually } from './eventually.ts';
import { expectNoBreaches } from './invariants.ts';
import type { ServiceProcess } from './service-process.ts';
import type { System } from './system.ts';
import { runSeed, startWorkload, type Workload, type WorkloadOptions } from './workload.ts';

export interface KillOptions {
  readonly system: System;
  readonly victim: ServiceProcess;
  /** The failpoint at which the victim is killed. */
  readonly place: string;
  /** The hit that kills; by default the third, so that others are under way. */
  readonly hit?: number;
  readonly workload: Pick<WorkloadOptions, 'skuIds' | 'users' | 'cancelShare' | 'repeatShare'>;
  /** Done again and again until the victim is dead, for places that buyers alone do not reach. */
  readonly provoke?: () => Promise<unknown>;
  readonly afterKill?: () => Promise<void>;
}

const provokeEveryMs = 100;
/** Places off the usual path are reached by chance. */
const reachedWithinMs = 90_000;
/** A circuit that opened meanwhile stays so for 30 s. */
const againWithinMs = 90_000;

/**
 * Kills a process at a named place under load, starts it again, and waits until orders are made
 * and no promise is broken.
 */
export async function killUnderLoad(options: KillOptions): Promise<void> {
  const { system, victim, place, hit = 3, provoke, afterKill } = options;
  const seed = runSeed();
  console.log(`${place}: seed ${seed} (SLUICE_TEST_SEED)`);
  const workload = startWorkload({
    clients: () => [system.order(0), system.order(1)],
    seed,
    concurrency: 16,
    restMs: 20,
    ...options.workload,
  });
  try {
    // Under load it may be killed before it is ready.
    await victim.restartToDie(`${place}:kill@${hit}`);
    try {
      await untilKilled(victim, place, provoke);
    } finally {
      await afterKill?.();
      await victim.restart();
    }
    const done = oks(workload);
    await eventually(() => oks(workload) >= done + 50, 'orders are made again', {
      withinMs: againWithinMs,
    });
  } finally {
    await workload.stop();
  }
  await expectNoBreaches(system, workload.history);
}

async function untilKilled(
  { process: child }: ServiceProcess,
  place: string,
  provoke: KillOptions['provoke'],
): Promise<void> {
  let given = false;
  const provoking = (async () => {
    while (provoke && child.isRunning() && !given) {
      await provoke().catch(() => undefined);
      await sleep(provokeEveryMs);
    }
  })();
  const bounds = { withinMs: reachedWithinMs };
  await eventually(() => !child.isRunning(), `${place} is reached`, bounds).finally(() => {
    given = true;
    return provoking;
  });
  assert.equal((await child.exited).signal, 'SIGKILL');
}

function oks({ history }: Workload): number {
  return history.filter(({ outcomes }) => outcomes.some(({ kind }) => kind === 'ok')).length;
}
