import type { Deadline } from '../runtime/deadline.ts';
import { isBusinessRefusal, Refusal } from '../runtime/refusals.ts';
import type { OrderDraft } from './order-draft.ts';
import type { PlacedOrder, PlaceOrder } from './place-order.ts';

/** How often a copy goes after the one before it failed; each is bounded by its own deadline. */
const roundsMax = 3;

interface Leader {
  readonly fingerprintHex: string;
  readonly outcome: Promise<PlacedOrder>;
}

/**
 * Lets one copy of a (user, request id) through at a time, within this process. The others wait and
 * share its answer, so that a thousand impatient clicks cost one order's work.
 */
export function joinCopies(place: PlaceOrder): PlaceOrder {
  const leaders = new Map<string, Leader>();

  async function lead(draft: OrderDraft, deadline: Deadline): Promise<PlacedOrder> {
    const outcome = place(draft, deadline);
    leaders.set(draft.requestKey, { fingerprintHex: draft.fingerprintHex, outcome });
    try {
      return await outcome;
    } finally {
      leaders.delete(draft.requestKey);
    }
  }

  return async (draft, deadline) => {
    for (let round = 0; round < roundsMax; round += 1) {
      const leader = leaders.get(draft.requestKey);
      if (leader === undefined) return await lead(draft, deadline);
      if (leader.fingerprintHex !== draft.fingerprintHex)
        throw new Refusal('IDEMPOTENCY_KEY_REUSED');
      try {
        const { order } = await before(leader.outcome, deadline);
        return { order, replayed: true };
      } catch (error) {
        // The leader may only have had less time; what the business refused, it refused to all.
        if (isBusinessRefusal(error) || deadline.passed || round === roundsMax - 1) throw error;
      }
    }
    throw new Refusal('OUTCOME_UNKNOWN');
  };
}

/** @throws Refusal OUTCOME_UNKNOWN if the deadline passes first */
async function before<Result>(outcome: Promise<Result>, deadline: Deadline): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const giveUp = (): void => reject(new Refusal('OUTCOME_UNKNOWN'));
    timer = setTimeout(giveUp, Math.max(0, deadline.leftMs()));
  });
  try {
    return await Promise.race([outcome, late]);
  } finally {
    clearTimeout(timer);
  }
}
