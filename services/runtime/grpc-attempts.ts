import type { Counter, Gauge } from 'prom-client';
import { type Breaker, createBreaker } from './breaker.ts';
import type { Deadline } from './deadline.ts';
import { isConnectionLoss } from './grpc-channel.ts';
import type { CallEnd, Copy, ServiceCopies } from './grpc-copies.ts';
import type { Log } from './log.ts';
import { NeverSent, TurnedAway } from './never-sent.ts';
import { isAnswer, Refusal } from './refusals.ts';

/** With less time left another attempt could not be answered. */
const retryMsMin = 50;
/** Attempts of one call at most, each but the last one surely without effect. */
const attemptsMax = 4;

/** Gives each copy a breaker of a class of methods, if it has none yet. */
export function addBreakers(
  copies: ServiceCopies,
  name: string,
  { log, state }: { log: Log; state: Gauge<'name'> | undefined },
): void {
  for (const copy of copies.all) {
    if (copy.breakers.has(name)) continue;
    const breaker = createBreaker({
      name: copies.all.length === 1 ? name : `${name}@${copy.target.name}`,
      log,
      ...(state ? { state } : {}),
      probe: () => copy.connected,
      isConnectionLoss,
    });
    copy.breakers.set(name, breaker);
  }
}

export interface Attempts<Response> {
  /** Asks one copy, which is connected. An error that is returned does not count for its breaker. */
  readonly attempt: (copy: Copy) => Promise<{ response: Response } | { error: unknown }>;
  /** See `CallPolicy.retry`. */
  readonly retry: boolean;
  readonly resent?: Counter<'reason'>;
}

/**
 * Asks the copy that will probably answer first, and another one if it surely did not begin.
 *
 * @throws Refusal DEPENDENCY_DOWN if no copy can be asked; else what the last attempt threw
 */
export async function atSomeCopy<Response>(
  copies: ServiceCopies,
  breakerName: string,
  deadline: Deadline,
  options: Attempts<Response>,
): Promise<Response> {
  const tried = new Set<Copy>();
  for (let attempts = 1; ; attempts += 1) {
    const copy = pick(copies, breakerName, tried);
    try {
      const outcome = await askCopy(copies, copy, breakerName, deadline, options);
      if ('error' in outcome) throw outcome.error;
      return outcome.response;
    } catch (error) {
      if (!(error instanceof NeverSent)) throw error;
      tried.add(copy);
      const isElsewhere = copies.all.some((other) => other.connected && !tried.has(other));
      const again =
        error instanceof TurnedAway || isElsewhere || (options.retry && tried.size === attempts);
      if (!again || attempts >= attemptsMax || deadline.leftMs() < retryMsMin) throw error;
      options.resent?.inc({ reason: error instanceof TurnedAway ? 'turned_away' : 'not_sent' });
    }
  }
}

/** @returns a copy that can be asked; if there is none, one whose breaker will say so */
function pick(copies: ServiceCopies, breakerName: string, tried: ReadonlySet<Copy>): Copy {
  const isClosed = (copy: Copy): boolean => !copy.breakers.get(breakerName)?.open;
  return (copies.pick((copy) => isClosed(copy) && !tried.has(copy)) ??
    copies.pick(isClosed) ??
    copies.pick(() => true)) as Copy;
}

async function askCopy<Response>(
  copies: ServiceCopies,
  copy: Copy,
  breakerName: string,
  deadline: Deadline,
  { attempt }: Attempts<Response>,
): Promise<{ response: Response } | { error: unknown }> {
  let begun = false;
  try {
    return await (copy.breakers.get(breakerName) as Breaker).fire(async () => {
      begun = true;
      if (!copy.connected) {
        await copies.waitUntilConnected(deadline);
        if (!copy.connected) throw new NeverSent('DEPENDENCY_DOWN', 'Another copy is connected');
      }
      const ended = copies.asked(copy);
      copy.load += 1;
      try {
        const outcome = await attempt(copy);
        ended('error' in outcome ? endOf(outcome.error) : 'answered');
        return outcome;
      } catch (error) {
        ended(endOf(error));
        // It is going away, which says nothing against it.
        if (error instanceof TurnedAway) return { error };
        throw error;
      } finally {
        copy.load -= 1;
      }
    });
  } catch (error) {
    if (begun || !(error instanceof Refusal)) throw error;
    // The breaker lets only one call through at a time.
    throw new NeverSent(error.reason, error.message, { cause: error });
  }
}

function endOf(error: unknown): CallEnd {
  // Nothing was asked of the copy.
  if (error instanceof NeverSent || (error instanceof Refusal && isOwnBound(error))) {
    return 'untouched';
  }
  return isAnswer(error) ? 'answered' : 'unanswered';
}

/** Whether we gave up ourselves before anything was sent. */
function isOwnBound({ reason, answered }: Refusal): boolean {
  return reason === 'OVERLOADED' && !answered;
}
