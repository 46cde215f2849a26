import { type Load, offerLoad, type Target } from './open-loop.ts';
import type { Recorder, Summary } from './recorder.ts';

/** At most this share of the offered orders may be unserved, unknown or not sent. */
const notServedShareMax = 0.01;
/** Orders that take longer on the whole are not what anybody calls held, however steady. */
const p99MsMax = 500;
/** A backlog of this many seconds of load is no backlog. */
const backlogSeconds = 0.15;
const growth = 1.4;
const refinements = 3;
const rateMin = 200;
const rateMax = 500_000;

export interface SearchOptions {
  readonly target: Target;
  readonly recorder: Recorder;
  readonly startRate: number;
  readonly stepSeconds: number;
  /** Told of every step, as it ends. */
  readonly onStep: (step: { rate: number; held: boolean; summary: Summary; load: Load }) => void;
}

/**
 * The highest rate that is held: steps upward until one is not, then halves the gap a few times.
 * 0 if not even the lowest rate is held.
 */
export async function findHighestRate(options: SearchOptions): Promise<number> {
  let good = 0;
  let bad = Number.POSITIVE_INFINITY;
  let rate = options.startRate;
  while (rate >= rateMin && rate <= rateMax) {
    if (await isHeld(options, rate)) {
      good = rate;
      rate = Math.round(rate * growth);
    } else {
      bad = rate;
      if (good > 0) break;
      rate = Math.round(rate / growth);
    }
    if (rate >= bad) break;
  }
  for (let step = 0; step < refinements && good > 0 && bad < Number.POSITIVE_INFINITY; step += 1) {
    const middle = Math.round((good + bad) / 2);
    if (await isHeld(options, middle)) good = middle;
    else bad = middle;
  }
  return good;
}

/** A step may fail because the machine did something else; a rate that is not held fails again. */
async function isHeld(options: SearchOptions, rate: number): Promise<boolean> {
  return (await tryRate(options, rate)) || (await tryRate(options, rate));
}

async function tryRate(options: SearchOptions, rate: number): Promise<boolean> {
  const { target, recorder, stepSeconds, onStep } = options;
  const load = await offerLoad({ target, recorder, rate, seconds: stepSeconds });
  const summary = recorder.summary(load.from, load.to);
  const notServed = summary.unserved + summary.unknown + summary.notSent + summary.none;
  const backlogMax = Math.max(load.backlogHalfway * 1.5, rate * backlogSeconds);
  const served = notServed <= summary.offered * notServedShareMax;
  const held = served && load.backlogAtEnd <= backlogMax && summary.okMs.p99 <= p99MsMax;
  onStep({ rate, held, summary, load });
  return held;
}
