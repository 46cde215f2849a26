import {
  type FigureChange,
  figureChange,
  type HoldMove,
  type HoldState,
  stateAfter,
} from './hold-states.ts';
import { fenceOf } from './ledger-fence.ts';
import type { HoldRow, LockedSku, NewHold } from './ledger-sql.ts';

/** An order whose holds are to be moved. */
export interface OrderMove {
  readonly orderId: bigint;
  readonly move: HoldMove;
  /** SKUs to fence where the order has no row; only with RELEASE. */
  readonly fenceSkuIds: readonly bigint[];
  /** The buyer and the request, for the fences; 0 and empty if unknown. */
  readonly userId: bigint;
  readonly requestId: string;
}

/** One hold that was moved, or fenced because there was none. */
export interface MovedHold {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly units: number;
  /** Whether its units became available again. */
  readonly credit: boolean;
  /** Whether it is a fence and nothing was moved. */
  readonly fenced: boolean;
  /** The SKU's epoch in the transaction that moved it. */
  readonly epoch: bigint;
}

/** A row that goes from the state it has to another. */
export interface StateChange {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly from: HoldState;
  readonly to: HoldState;
}

/** What a transaction has to write so that holds are moved, decided from the rows as it has locked them. */
export interface MovePlan {
  readonly moved: readonly Omit<MovedHold, 'epoch'>[];
  readonly states: readonly StateChange[];
  readonly fences: readonly NewHold[];
  readonly figures: ReadonlyMap<bigint, FigureChange>;
}

/** @param skus those that are locked; a fence needs its SKU's currency. Pure. */
export function planMoves(
  orders: readonly OrderMove[],
  holds: ReadonlyMap<bigint, readonly HoldRow[]>,
  skus: ReadonlyMap<bigint, LockedSku>,
): MovePlan {
  const moved: Omit<MovedHold, 'epoch'>[] = [];
  const states = new Map<string, StateChange>();
  const figures = new Map<bigint, FigureChange>();
  const fences = new Map<string, NewHold>();
  for (const order of orders) {
    const rows = holds.get(order.orderId) ?? [];
    for (const row of rows) {
      const { orderId, skuId, userId, requestId, units } = row;
      const key = `${orderId},${skuId}`;
      // Two events of one order may share a batch: the second sees what the first did.
      const from = states.get(key)?.to ?? row.state;
      const to = stateAfter(from, order.move);
      if (to === undefined) continue;
      states.set(key, { orderId, skuId, from: row.state, to });
      const change = figureChange(from, to, units);
      figures.set(skuId, add(figures.get(skuId), change));
      const credit = change.available > 0n;
      moved.push({ orderId, skuId, userId, requestId, units, credit, fenced: false });
    }
    for (const skuId of order.fenceSkuIds) {
      const sku = skus.get(skuId);
      const key = `${order.orderId},${skuId}`;
      if (!sku || fences.has(key) || rows.some((row) => row.skuId === skuId)) continue;
      const fence = fenceOf({ ...order, skuId, units: 0 }, sku.currency);
      fences.set(key, fence);
      moved.push({ ...fence, credit: false, fenced: true });
    }
  }
  return { moved, states: [...states.values()], fences: [...fences.values()], figures };
}

function add(to: FigureChange | undefined, change: FigureChange): FigureChange {
  if (to === undefined) return change;
  return {
    available: to.available + change.available,
    held: to.held + change.held,
    sold: to.sold + change.sold,
  };
}
