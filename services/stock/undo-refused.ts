import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Batcher } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import type { CreditFenced } from './credit-fenced.ts';
import { type HoldState, holdState, isOwned } from './hold-states.ts';
import type { FenceEntry } from './ledger-fence.ts';

/** An order that was refused after it had passed the gates of its first lines. */
export interface RefusedOrder {
  readonly reservation: StockReservation;
  readonly linesPassed: number;
}

/**
 * What became of it: UNDONE, nothing of it is held and a late post is barred; HELD, a copy of the
 * request brought it in; DEAD, it was released before; undefined if nobody knows.
 */
export type Fate = 'UNDONE' | 'HELD' | 'DEAD' | undefined;

export type UndoRefused = (orders: readonly RefusedOrder[], deadline: Deadline) => Promise<Fate[]>;

const chunkLinesMax = 500;

/** Fences what refused orders took at the gates before, and gives it back there. */
export function createUndoRefused({
  fences,
  creditFenced,
  log,
}: {
  readonly fences: Batcher<readonly FenceEntry[], (HoldState | undefined)[]>;
  readonly creditFenced: CreditFenced;
  readonly log: Log;
}): UndoRefused {
  return async (orders, deadline) => {
    const fates: Fate[] = [];
    for (let from = 0; from < orders.length; ) {
      const chunk = takeChunk(orders, from);
      from += chunk.length;
      try {
        fates.push(...(await undoChunk(chunk, deadline)));
      } catch (error) {
        // The pending entries stay; the settling loop bars and credits them by their age.
        log.warn({ err: error }, 'refused orders are left to the settling loop');
        fates.push(...chunk.map(() => undefined));
      }
    }
    return fates;
  };

  async function undoChunk(orders: readonly RefusedOrder[], deadline: Deadline): Promise<Fate[]> {
    const entries = orders.map(linesOf);
    const states = await fences.add(entries.flat(), deadline);
    const barred: FenceEntry[] = [];
    let at = 0;
    const fates = entries.map((lines): Fate => {
      const found = states.slice(at, at + lines.length);
      at += lines.length;
      for (const [line, entry] of lines.entries()) {
        if (found[line] === holdState.FENCED) barred.push(entry);
      }
      // The settling loop bars what could not be barred now, and credits it.
      if (found.some((state) => state === undefined)) return undefined;
      if (found.some((state) => state !== undefined && isOwned(state))) return 'HELD';
      return found.every((state) => state === holdState.FENCED) ? 'UNDONE' : 'DEAD';
    });
    await creditFenced(barred);
    return fates;
  }
}

function takeChunk(orders: readonly RefusedOrder[], from: number): RefusedOrder[] {
  const chunk: RefusedOrder[] = [];
  let lines = 0;
  for (let at = from; at < orders.length; at += 1) {
    const order = orders[at] as RefusedOrder;
    if (chunk.length > 0 && lines + order.linesPassed > chunkLinesMax) break;
    chunk.push(order);
    lines += order.linesPassed;
  }
  return chunk;
}

function linesOf({ reservation, linesPassed }: RefusedOrder): FenceEntry[] {
  const { orderId, userId, requestId } = reservation;
  return reservation.lines
    .slice(0, linesPassed)
    .map(({ skuId, quantity: units }) => ({ orderId, skuId, userId, requestId, units }));
}
