import type { Deadline } from '../runtime/deadline.ts';
import type { HandleApart } from '../runtime/handle-apart.ts';
import type { OrderMove } from './ledger-moves.ts';
import { movesApart } from './moves-apart.ts';
import type { Resolution } from './order-gateway.ts';
import type { RecheckHoldsOptions } from './recheck-holds.ts';

/** Orders that are left open, remembered at most; the passes see to any others. */
const openMax = 2_000;
/** What one part of moves that failed together may take, and the search for those at fault. */
const partMs = 1_500;
const searchMs = 2_000;

/**
 * Asks what became of orders whose holds are HELD, and moves the holds accordingly. An order whose hold
 * cannot be moved keeps no other.
 */
export class MendHolds {
  readonly #options: RecheckHoldsOptions;
  readonly #againMs: number | undefined;
  readonly #apart: HandleApart<OrderMove>;
  /** When each is asked for again, the longest due first. */
  readonly #open = new Map<bigint, number>();

  /** @param againMs how often orders that are left open are asked for again; absent: never */
  constructor(options: RecheckHoldsOptions, { againMs }: { readonly againMs?: number }) {
    this.#options = options;
    this.#againMs = againMs;
    this.#apart = movesApart(options.releaseStock);
  }

  /** Orders that were left open and are to be asked for again now. */
  openOrders(max: number): bigint[] {
    const nowMs = performance.now();
    const due = [...this.#open].filter(([, dueAtMs]) => dueAtMs <= nowMs);
    return due.slice(0, max).map(([orderId]) => orderId);
  }

  /** @throws Refusal, or the server's error, if the orders or the ledger cannot be asked now */
  async mend(orderIds: readonly bigint[], deadline: Deadline): Promise<void> {
    if (orderIds.length === 0) return;
    const resolutions = await this.#options.order.resolve(orderIds, deadline);
    const open: bigint[] = [];
    const moves: OrderMove[] = [];
    for (const [at, orderId] of orderIds.entries()) {
      const move = moveOf(resolutions[at] as Resolution);
      if (move === undefined) open.push(orderId);
      else moves.push({ orderId, move, fenceSkuIds: [], userId: 0n, requestId: '' });
    }
    open.push(...(await this.#move(moves, deadline)));
    this.#remember(orderIds, open);
  }

  #remember(asked: readonly bigint[], open: readonly bigint[]): void {
    if (this.#againMs === undefined) return;
    for (const orderId of asked) this.#open.delete(orderId);
    const dueAtMs = performance.now() + this.#againMs;
    for (const orderId of open) if (this.#open.size < openMax) this.#open.set(orderId, dueAtMs);
  }

  /** Answers the orders whose holds stay. @throws what the ledger threw if it moves nobody's */
  async #move(moves: readonly OrderMove[], deadline: Deadline): Promise<bigint[]> {
    const { metrics, log } = this.#options;
    const bounds = { wholeMs: Math.max(1, deadline.leftMs()), partMs, searchMs };
    const { failed, untried, away } = await this.#apart.handle(moves, bounds);
    if (away !== undefined && untried.length === moves.length) throw away;
    const left = new Set([...failed.keys(), ...untried]);
    const moved = moves.filter((move) => !left.has(move));
    const released = moved.filter(({ move }) => move === 'RELEASE').length;
    const sold = moved.length - released;
    if (released > 0) metrics.rechecked.inc({ move: 'release' }, released);
    if (sold > 0) metrics.rechecked.inc({ move: 'sell' }, sold);
    if (moved.length > 0) log.info({ released, sold }, 'holds that missed an event were mended');
    for (const [{ orderId }, err] of [...failed].slice(0, 1)) {
      const orders = failed.size;
      log.error({ err, orderId: String(orderId), orders }, 'old holds cannot be moved');
    }
    return [...left].map(({ orderId }) => orderId);
  }
}

/**
 * What is live or undecided stays. A refunded order is sold here, also if an operator wanted its units
 * back on sale: only the lost event said so. Selling too little does no harm, and `AdjustStock` puts
 * them back.
 */
function moveOf(resolution: Resolution): OrderMove['move'] | undefined {
  if (resolution === 'DEAD') return 'RELEASE';
  return resolution === 'SOLD' ? 'SELL' : undefined;
}
