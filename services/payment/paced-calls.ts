import { setTimeout as sleep } from 'node:timers/promises';
import Bottleneck from 'bottleneck';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { ProviderPace } from './provider-pace.ts';

/** Calls of the loops, of one kind: bottleneck spaces them out at the pace that the provider takes. */
export interface PacedCalls {
  /** @throws Refusal OVERLOADED if its turn does not come in time; else what `call` throws */
  run<Result>(call: () => Promise<Result>, deadline: Deadline): Promise<Result>;
  close(): Promise<void>;
}

/** Calls that wait for their turn at most: the loops bound how many they have under way far below it. */
const queueDepthMax = 500;
/** A change of the pace by less is not worth telling. */
const changeMin = 0.01;

export function createPacedCalls(pace: ProviderPace): PacedCalls {
  let perSecond = pace.perSecond;
  const limiter = new Bottleneck({
    minTime: 1_000 / perSecond,
    highWater: queueDepthMax,
    strategy: Bottleneck.strategy.OVERFLOW,
  });

  function follow(): void {
    const wanted = pace.perSecond;
    if (Math.abs(wanted - perSecond) < changeMin * perSecond) return;
    perSecond = wanted;
    limiter.updateSettings({ minTime: 1_000 / perSecond });
  }

  /** A turn that would come too late is not waited for: it would be lost to those who come in time. */
  function requireTime(deadline: Deadline): void {
    const { RECEIVED, QUEUED, RUNNING } = limiter.counts();
    const aheadMs = ((RECEIVED + QUEUED + RUNNING) * 1_000) / perSecond;
    if (Math.max(pace.pausedMs, aheadMs) < deadline.leftMs()) return;
    throw new Refusal('OVERLOADED', 'The provider takes no more of these calls in time');
  }

  return {
    async run<Result>(call: () => Promise<Result>, deadline: Deadline): Promise<Result> {
      for (;;) {
        follow();
        requireTime(deadline);
        if (pace.pausedMs > 0) await sleep(pace.pausedMs);
        try {
          const done = await limiter.schedule(async () =>
            // The provider has asked to wait meanwhile.
            pace.pausedMs > 0 ? undefined : { result: await call() },
          );
          if (done) return done.result;
        } catch (error) {
          if (!(error instanceof Bottleneck.BottleneckError)) throw error;
          throw new Refusal('OVERLOADED', undefined, { cause: error });
        }
      }
    },
    async close() {
      await limiter.stop();
    },
  };
}
