import { HandleApart } from '../runtime/handle-apart.ts';
import { SomeFailed } from '../runtime/some-failed.ts';
import type { OrderMove } from './ledger-moves.ts';
import { HoldsBusy, type ReleaseStock } from './release-stock.ts';

/**
 * Moves the holds of orders together, and apart where that fails, for what became of orders that exist:
 * a cancelled order keeps its request record, which leads a retry to it. Orders whose rows are locked
 * are named by the ledger, and cost the others nothing.
 */
export function movesApart(releaseStock: Pick<ReleaseStock, 'release'>): HandleApart<OrderMove> {
  return new HandleApart(async (moves, deadline) => {
    try {
      await releaseStock.release(moves, { forgetRequests: false }, deadline);
    } catch (error) {
      if (!(error instanceof HoldsBusy)) throw error;
      const busy = moves.flatMap(({ orderId }, at): [number, unknown][] =>
        error.orderIds.has(orderId) ? [[at, error]] : [],
      );
      throw new SomeFailed(new Map(busy));
    }
  });
}
