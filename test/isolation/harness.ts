import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

/** What one attempt came to. `unserved` is a quick "not now" (503, 429): nothing was done. */
export interface Attempt {
  readonly outcome: 'made' | 'refused' | 'unserved' | 'unknown';
  /** Why it was not made. */
  readonly reason?: string;
}

/** Callers of one kind, who send at a steady pace whatever the answers. */
export interface Group {
  readonly perSecond: number;
  /** Makes one attempt; `number` is different each time. What it throws counts as unknown. */
  send(number: number): Promise<Attempt>;
}

/** Milliseconds; NaN if there were no attempts. */
export interface Latencies {
  readonly p50: number;
  /** The slowest, but for one of a hundred and for at least two: those that a pause of the machine met. */
  readonly p99: number;
  readonly max: number;
}

/** What the attempts of one phase came to. Latencies count from the moment each was due. */
export interface Figures {
  readonly sent: number;
  readonly made: number;
  readonly refused: number;
  readonly unserved: number;
  readonly unknown: number;
  /** Reasons of what was not made, with their counts. */
  readonly reasons: Readonly<Record<string, number>>;
  readonly madeMs: Latencies;
  /** Of everything that was not made: how long it took to be told so. */
  readonly otherMs: Latencies;
}

/** A group's attempts before, during and after the bad thing, by when they were due. */
export interface Phases {
  readonly before: Figures;
  /** The first `graceMs` of the bad thing, which the table may allow to show; and what was under way then. */
  readonly grace: Figures;
  readonly during: Figures;
  readonly after: Figures;
}

export interface TrialOptions<Name extends string> {
  readonly groups: Readonly<Record<Name, Group>>;
  /** Switches the bad thing on, and off again. */
  readonly bad: { on(): Promise<void>; off(): Promise<void> };
  readonly beforeMs?: number;
  /** What of the time with the bad thing is counted apart; default 0. */
  readonly graceMs?: number;
  readonly duringMs?: number;
  /** Rest after the bad thing ended, before what comes is counted; default 0. */
  readonly recoveryMs?: number;
  readonly afterMs?: number;
}

const phaseMsDefault = 4_000;
const tickMs = 5;

/** One attempt, by the monotonic clock. */
export interface Sent {
  readonly dueMs: number;
  readonly doneMs: number;
  readonly attempt: Attempt;
}

/** Sends for each group through all phases, and answers what each phase came to, when all is answered. */
export async function runTrial<Name extends string>(
  options: TrialOptions<Name>,
): Promise<Record<Name, Phases>> {
  const { bad, graceMs = 0, recoveryMs = 0 } = options;
  const senders = Object.entries<Group>(options.groups).map(
    ([name, group]) => [name, startSending(group)] as const,
  );
  let isOn = false;
  let onMs = 0;
  let offMs = 0;
  try {
    await sleep(options.beforeMs ?? phaseMsDefault);
    onMs = performance.now();
    isOn = true;
    await bad.on();
    await sleep(graceMs + (options.duringMs ?? phaseMsDefault));
    offMs = performance.now();
    await bad.off();
    isOn = false;
    await sleep(recoveryMs + (options.afterMs ?? phaseMsDefault));
  } finally {
    if (isOn) await bad.off();
    await Promise.all(senders.map(([, sender]) => sender.stop()));
  }
  const graceEndMs = onMs + graceMs;
  const figuresOf = (sent: readonly Sent[], fromMs: number, toMs: number): Figures =>
    summarise(sent.filter((one) => countsFromMs(one) >= fromMs && countsFromMs(one) < toMs));
  // What was under way when the bad thing began has met it.
  const countsFromMs = ({ dueMs, doneMs }: Sent): number =>
    dueMs < onMs && doneMs > onMs ? onMs : dueMs;
  const phases = senders.map(([name, { sent }]) => [
    name,
    {
      before: figuresOf(sent, 0, onMs),
      grace: figuresOf(sent, onMs, graceEndMs),
      during: figuresOf(sent, graceEndMs, offMs),
      after: figuresOf(sent, offMs + recoveryMs, Number.POSITIVE_INFINITY),
    },
  ]);
  return Object.fromEntries(phases) as Record<Name, Phases>;
}

/** Sends on a fixed schedule; what is overdue goes at once and counts from its own moment. */
export function startSending({ perSecond, send }: Group): { sent: Sent[]; stop(): Promise<void> } {
  const sent: Sent[] = [];
  const underWay = new Set<Promise<void>>();
  const startMs = performance.now();
  let number = 0;
  const timer = setInterval(() => {
    const due = ((performance.now() - startMs) * perSecond) / 1_000;
    for (; number <= due; number += 1) {
      const dueMs = startMs + (number * 1_000) / perSecond;
      const one = send(number)
        .catch((error): Attempt => ({ outcome: 'unknown', reason: String(error) }))
        .then((attempt) => {
          sent.push({ dueMs, doneMs: performance.now(), attempt });
          underWay.delete(one);
        });
      underWay.add(one);
    }
  }, tickMs);
  return {
    sent,
    async stop() {
      clearInterval(timer);
      await Promise.all(underWay);
    },
  };
}

function summarise(sent: readonly Sent[]): Figures {
  const count = { made: 0, refused: 0, unserved: 0, unknown: 0 };
  const reasons: Record<string, number> = {};
  const made: number[] = [];
  const others: number[] = [];
  for (const { dueMs, doneMs, attempt } of sent) {
    count[attempt.outcome] += 1;
    (attempt.outcome === 'made' ? made : others).push(doneMs - dueMs);
    const { reason = attempt.outcome } = attempt;
    if (attempt.outcome !== 'made') reasons[reason] = (reasons[reason] ?? 0) + 1;
  }
  return {
    sent: sent.length,
    ...count,
    reasons,
    madeMs: latenciesOf(made),
    otherMs: latenciesOf(others),
  };
}

const pausedMin = 2;

function latenciesOf(values: readonly number[]): Latencies {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (index: number): number => Math.round(sorted[Math.max(0, index)] ?? Number.NaN);
  const paused = Math.max(pausedMin, Math.ceil(sorted.length / 100));
  return {
    p50: at(Math.ceil(sorted.length / 2) - 1),
    p99: at(sorted.length - 1 - paused),
    max: at(sorted.length - 1),
  };
}

/** What a busy machine adds to the slowest of a hundred by itself, so that ratios of small figures mean nothing. */
const floorMs = 500;

/**
 * Asserts that a group noticed nothing: all that it sent was made, and the slowest of a hundred took at
 * most twice what it took before.
 */
export function assertUnharmed({ before, during }: Phases, who = 'the others'): void {
  const figures = JSON.stringify({ before, during });
  assert.ok(during.sent > 0 && before.made > 0, `${who} were measured: ${figures}`);
  assert.equal(during.made, during.sent, `all that ${who} sent was made: ${figures}`);
  const bound = 2 * Math.max(before.madeMs.p99, floorMs);
  assert.ok(during.madeMs.p99 <= bound, `P99 of ${who} is at most ${bound} ms: ${figures}`);
}

/** Asserts that a group is served again after the bad thing: all that it sent then was made. */
export function assertRecovered({ after }: Phases, who: string): void {
  const figures = JSON.stringify(after);
  assert.ok(after.sent > 0, `${who} were measured afterwards`);
  assert.equal(after.made, after.sent, `all that ${who} sent afterwards was made: ${figures}`);
}
