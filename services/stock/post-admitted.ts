import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { PostedOrder, PostResult } from './decide-post.ts';
import { postOutcome } from './reservation-outcomes.ts';
import type { Reservations } from './reservations.ts';
import { postChunks, type ReserveBatches } from './reserve-batches.ts';
import type { RequestResync } from './resync-queue.ts';
import type { SettledOrders } from './settled-orders.ts';

export interface PostAdmittedOptions {
  readonly batches: Pick<ReserveBatches, 'posts'>;
  readonly settled: SettledOrders;
  readonly requestResync: RequestResync;
  readonly log: Log;
}

/**
 * Posts orders that passed their gates to the ledger, and answers them by what it says. Those of a SKU
 * whose row stays locked are unknown for now: whoever asks again under the same id goes on from here.
 */
export async function postAdmitted(
  options: PostAdmittedOptions,
  reservations: Reservations,
  indexes: readonly number[],
): Promise<void> {
  const orders = indexes.map((index) => reservations.posted(index));
  let from = 0;
  const posts = postChunks(orders).map((chunk) => {
    from += chunk.length;
    return postChunk(options, reservations, indexes.slice(from - chunk.length, from), chunk);
  });
  await Promise.all(posts);
}

async function postChunk(
  { batches, settled, requestResync, log }: PostAdmittedOptions,
  reservations: Reservations,
  indexes: readonly number[],
  chunk: readonly PostedOrder[],
): Promise<void> {
  let results: readonly PostResult[];
  try {
    results = await batches.posts.add(chunk, reservations.deadline);
  } catch (error) {
    if (!(error instanceof Refusal)) log.error({ err: error }, 'a post failed');
    return;
  }
  for (const [at, index] of indexes.entries()) {
    const { reservation, epochs } = chunk[at] as PostedOrder;
    const result = results[at] as PostResult;
    if (result.kind === 'RESERVED') {
      for (const { skuId } of reservation.lines) settled.add(skuId, reservation.orderId);
    }
    if (result.kind === 'SOLD_OUT') {
      const line = reservation.lines.findIndex(({ skuId }) => skuId === result.skuId);
      const epoch = epochs[line];
      const seenEpoch = epoch === undefined ? undefined : BigInt(epoch);
      requestResync(result.skuId, 'ledger_refused', seenEpoch);
    }
    const outcome = postOutcome(result, reservation);
    // An epoch that is refused fences nothing: a retry may pass the new gate under the same id.
    const final = outcome.$case !== 'refused' || result.kind === 'STOCK_NOT_LOADED';
    if (final) reservations.answer(index, outcome);
    else reservations.refuse(index, outcome);
  }
}
