import { setTimeout as sleep } from 'node:timers/promises';
import type { Deadline } from '../runtime/deadline.ts';
import { reasonNumber } from '../runtime/refusals.ts';
import type { ReservationOutcome } from './stock-gateway.ts';

/** Between two attempts at a SKU whose row is locked, and so many of them at most. */
const pauseMs = 100;
const triesMax = 20;

/**
 * Reserves one order; while the row of one of its SKUs is locked in the ledger it asks again, apart from
 * the orders that it came with, until the deadline. What is refused then, because the row stays locked,
 * has passed its gates and is unknown.
 */
export async function askAgainWhileLocked(
  ask: () => Promise<ReservationOutcome>,
  deadline: Deadline,
): Promise<ReservationOutcome> {
  for (let attempt = 0; ; attempt += 1) {
    const outcome = await ask();
    if (attempt > 0 && isPassing(outcome)) return unknown;
    if (!isLocked(outcome) || attempt === triesMax || deadline.leftMs() <= pauseMs) return outcome;
    await sleep(pauseMs);
  }
}

const unknown: ReservationOutcome = { $case: 'unknown', value: { lockedSkuId: 0n } };

function isLocked(outcome: ReservationOutcome): boolean {
  return outcome.$case === 'unknown' && outcome.value.lockedSkuId !== 0n;
}

/** A refusal that says that nothing was done, which is not true any more of an order behind its gates. */
function isPassing(outcome: ReservationOutcome): boolean {
  if (outcome.$case !== 'refused') return false;
  const { reason } = outcome.value;
  return reason === reasonNumber('OVERLOADED') || reason === reasonNumber('DEPENDENCY_DOWN');
}
