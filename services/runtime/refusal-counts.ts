import type { RefusalReason } from './refusals.ts';

const counts = new Map<RefusalReason, number>();

/** Counts a refusal that this process gives as an answer. */
export function countRefusal(reason: RefusalReason): void {
  counts.set(reason, (counts.get(reason) ?? 0) + 1);
}

/** The refusals that this process gave since its start, by reason. */
export function refusalCounts(): ReadonlyMap<RefusalReason, number> {
  return counts;
}
