import type { ReservationLine, StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import { type HoldState, isOwned } from './hold-states.ts';

/** An order that passed the gates of all its SKUs. */
export interface PostedOrder {
  readonly reservation: StockReservation;
  /** The epoch of each line's gate; a post that carries none is not compared. */
  readonly epochs: readonly (number | undefined)[];
}

/** A SKU's row, as far as a post needs it. */
export interface PostSku {
  readonly skuId: bigint;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly available: bigint;
  readonly epoch: bigint;
}

/** A hold that exists already. */
export interface ExistingHold {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly userId: bigint;
  /** Empty only in a FENCED row whose request is unknown. */
  readonly requestId: string;
  readonly units: number;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly state: HoldState;
}

/** What the ledger knows when it decides, read under the locks of the SKU rows. */
export interface PostState {
  readonly watermark: bigint;
  readonly skus: ReadonlyMap<bigint, PostSku>;
  /** SKUs whose rows another transaction has locked. */
  readonly busy: ReadonlySet<bigint>;
  readonly holds: ReadonlyMap<bigint, readonly ExistingHold[]>;
}

/** Price of one unit of a line. */
export interface UnitPrice {
  readonly currency: string;
  readonly minorUnits: bigint;
}

export type PostResult =
  /** The ledger holds every line; prices in the order of the lines. */
  | { readonly kind: 'RESERVED'; readonly prices: readonly UnitPrice[]; readonly before: boolean }
  | { readonly kind: 'DEAD' }
  | { readonly kind: 'ID_TAKEN' }
  | { readonly kind: 'SOLD_OUT' | 'STOCK_NOT_LOADED' | 'NOT_FOUND'; readonly skuId: bigint }
  /** Another transaction has locked the SKU: nothing was done, and the post may come again. */
  | { readonly kind: 'BUSY'; readonly skuId: bigint }
  | { readonly kind: 'CURRENCIES_DIFFER' };

export interface PostDecision {
  /** One result per order, in their order. */
  readonly results: PostResult[];
  /** Indexes of the orders whose lines are to be inserted. */
  readonly inserts: number[];
  /** Units to move from available to held, per SKU. */
  readonly taken: Map<bigint, bigint>;
}

/**
 * Decides a batch of posts in memory, each order wholly or not at all and in the batch's order, so
 * that the ledger is written with one insert and one update. Pure.
 */
export function decidePost(orders: readonly PostedOrder[], state: PostState): PostDecision {
  const taken = new Map<bigint, bigint>();
  const decidedAt = new Map<bigint, number>();
  const inserts: number[] = [];
  const results: PostResult[] = [];
  for (const [index, order] of orders.entries()) {
    const { orderId } = order.reservation;
    const first = decidedAt.get(orderId);
    if (first !== undefined) {
      results.push(decideCopy(order, orders[first] as PostedOrder, results[first] as PostResult));
      continue;
    }
    decidedAt.set(orderId, index);
    const result = decideFirst(order, state, taken);
    if (result.kind === 'RESERVED' && !result.before) inserts.push(index);
    results.push(result);
  }
  return { results, inserts, taken };
}

function decideFirst(order: PostedOrder, state: PostState, taken: Map<bigint, bigint>): PostResult {
  const { orderId, lines } = order.reservation;
  // Without the locks of its SKUs nobody knows what the order has.
  const busy = lines.find(({ skuId }) => state.busy.has(skuId));
  if (busy) return { kind: 'BUSY', skuId: busy.skuId };
  const held = state.holds.get(orderId);
  return held ? decideExisting(order, held) : decideNew(order, state, taken);
}

/** The same order id twice in one batch: copies of one request share the answer. */
function decideCopy(
  { reservation }: PostedOrder,
  { reservation: first }: PostedOrder,
  result: PostResult,
): PostResult {
  if (reservation.userId !== first.userId || reservation.requestId !== first.requestId) {
    return { kind: 'ID_TAKEN' };
  }
  return result.kind === 'RESERVED' ? { ...result, before: true } : result;
}

function decideExisting({ reservation }: PostedOrder, held: readonly ExistingHold[]): PostResult {
  const prices: UnitPrice[] = [];
  let dead = false;
  for (const hold of held) {
    if (!isSameRequest(hold, reservation)) return { kind: 'ID_TAKEN' };
    if (!isOwned(hold.state)) dead = true;
  }
  if (dead) return { kind: 'DEAD' };
  for (const line of reservation.lines) {
    const hold = held.find(({ skuId }) => skuId === line.skuId);
    if (hold?.units !== line.quantity) return { kind: 'ID_TAKEN' };
    prices.push({ currency: hold.currency, minorUnits: hold.unitPriceMinor });
  }
  return { kind: 'RESERVED', prices, before: true };
}

/** A FENCED row may have been left by a caller who knew neither the user nor the request. */
function isSameRequest(hold: ExistingHold, { userId, requestId }: StockReservation): boolean {
  const sameUser = hold.userId === userId || hold.userId === 0n;
  return sameUser && (hold.requestId === requestId || hold.requestId === '');
}

function decideNew(
  { reservation, epochs }: PostedOrder,
  { watermark, skus }: PostState,
  taken: Map<bigint, bigint>,
): PostResult {
  if (reservation.orderId <= watermark) return { kind: 'DEAD' };
  const { lines } = reservation;
  const prices: UnitPrice[] = [];
  let soldOut: bigint | undefined;
  for (const [index, { skuId, quantity }] of lines.entries()) {
    const sku = skus.get(skuId);
    if (sku === undefined) return { kind: 'NOT_FOUND', skuId };
    const epoch = epochs[index];
    if (epoch !== undefined && BigInt(epoch) < sku.epoch)
      return { kind: 'STOCK_NOT_LOADED', skuId };
    if (sku.available - (taken.get(skuId) ?? 0n) < BigInt(quantity)) soldOut ??= skuId;
    prices.push({ currency: sku.currency, minorUnits: sku.unitPriceMinor });
  }
  if (prices.some(({ currency }) => currency !== prices[0]?.currency)) {
    return { kind: 'CURRENCIES_DIFFER' };
  }
  if (soldOut !== undefined) return { kind: 'SOLD_OUT', skuId: soldOut };
  take(lines, taken);
  return { kind: 'RESERVED', prices, before: false };
}

function take(lines: readonly ReservationLine[], taken: Map<bigint, bigint>): void {
  for (const { skuId, quantity } of lines) {
    taken.set(skuId, (taken.get(skuId) ?? 0n) + BigInt(quantity));
  }
}
