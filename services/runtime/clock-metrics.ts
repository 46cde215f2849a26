import { Gauge } from 'prom-client';
import type { JudgedTime } from './judged-time.ts';
import type { Metrics } from './metrics.ts';

/** Shows whether this process knows the time, and which clocks do not tell it. */
export function showClocks(
  { registry }: Metrics,
  time: Pick<JudgedTime, 'nowMs' | 'wrongClocks'>,
): void {
  const registers = [registry];
  new Gauge({
    name: 'clocks_judged',
    help: 'Whether the clocks agree on a time: 1 they do, 0 new work is refused until they do',
    registers,
    collect() {
      this.set(time.nowMs() === undefined ? 0 : 1);
    },
  });
  new Gauge({
    name: 'clock_ahead_seconds',
    help: 'How far a clock that is wrong is ahead of the time; a clock that is right is not listed',
    labelNames: ['clock'],
    registers,
    collect() {
      this.reset();
      for (const [clock, aheadMs] of time.wrongClocks()) this.set({ clock }, aheadMs / 1_000);
    },
  });
}
