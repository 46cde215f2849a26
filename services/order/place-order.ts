import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { ReservationRefusal, ReservedLine } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { Refusal, reasonOf, refusalTable } from '../runtime/refusals.ts';
import type { FenceOrder } from './fence-order.ts';
import type { InsertOrders } from './insert-orders.ts';
import type { OrderDraft } from './order-draft.ts';
import type { OrderReader } from './order-reader.ts';
import type { StoredOrder } from './order-rows.ts';
import type { ReservationOutcome, StockGateway } from './stock-gateway.ts';

/** An order that exists, and whether an earlier attempt of the same request made it. */
export interface PlacedOrder {
  readonly order: Order;
  readonly replayed: boolean;
}

export interface PlaceOrderOptions {
  /** Makes an order id of a slot. @throws Refusal DEPENDENCY_DOWN without a worker number */
  readonly nextId: (slot: number) => bigint;
  readonly stock: Pick<StockGateway, 'reserve' | 'release'>;
  readonly reader: OrderReader;
  readonly insertOrders: Pick<InsertOrders, 'insert'>;
  readonly fenceOrder: FenceOrder;
}

/**
 * Places one order, or finds the one that its request has made already.
 *
 * @throws Refusal: a business refusal left nothing behind; OVERLOADED, STOCK_NOT_LOADED and
 *   DEPENDENCY_DOWN did nothing; OUTCOME_UNKNOWN is settled by the same request again, or by the sweep
 */
export type PlaceOrder = (draft: OrderDraft, deadline: Deadline) => Promise<PlacedOrder>;

/** Adopting, colliding and starting over each take a step; an honest run needs five at most. */
const stepsMax = 8;

export function createPlaceOrder(options: PlaceOrderOptions): PlaceOrder {
  return (draft, deadline) => new Attempt(options, draft, deadline).run();
}

/** What a step leads to: an answer, or the id to go on with. */
type Step = { readonly placed: PlacedOrder } | { readonly orderId: bigint };

/** One attempt at one request; it keeps what it has learned from step to step. */
class Attempt {
  readonly #with: PlaceOrderOptions;
  readonly #draft: OrderDraft;
  readonly #deadline: Deadline;
  #startedOver = false;
  #adopted = false;

  constructor(options: PlaceOrderOptions, draft: OrderDraft, deadline: Deadline) {
    this.#with = options;
    this.#draft = draft;
    this.#deadline = deadline;
  }

  async run(): Promise<PlacedOrder> {
    let orderId = this.#with.nextId(this.#draft.slot);
    for (let step = 0; step < stepsMax; step += 1) {
      const next = await this.#reserve(orderId);
      if ('placed' in next) return next.placed;
      orderId = next.orderId;
    }
    throw new Refusal('OUTCOME_UNKNOWN', 'The request met too many other attempts');
  }

  async #reserve(orderId: bigint): Promise<Step> {
    const { userId, requestId, fingerprint, lines } = this.#draft;
    const reservation = { orderId, userId, requestId, fingerprint, lines };
    let outcome: ReservationOutcome;
    try {
      outcome = await this.#with.stock.reserve(reservation, this.#deadline);
    } catch (cause) {
      // An adopted id has been through the gate, so "nothing was done" would not be true of it.
      if (this.#adopted) throw new Refusal('OUTCOME_UNKNOWN', undefined, { cause });
      throw cause;
    }
    return await this.#goOn(orderId, outcome);
  }

  async #goOn(orderId: bigint, outcome: ReservationOutcome): Promise<Step> {
    switch (outcome.$case) {
      case 'reserved':
        return await this.#insert(orderId, outcome.value.lines);
      case 'adopted':
        return await this.#adopt(outcome.value.orderId);
      case 'dead':
        return await this.#startOver(orderId);
      case 'idTaken':
        return this.#anotherId();
      case 'refused':
        return await this.#refuse(outcome.value);
      case 'unknown':
        throw new Refusal('OUTCOME_UNKNOWN');
    }
  }

  /** The units are held: from here on every failure is unknown, and nothing is undone. */
  async #insert(orderId: bigint, reserved: readonly ReservedLine[]): Promise<Step> {
    if (!isWhole(this.#draft, reserved)) {
      throw new Refusal('OUTCOME_UNKNOWN', 'Stock answered other lines than were asked for');
    }
    const entry = { orderId, draft: this.#draft, reserved, adopted: this.#adopted };
    for (let attempt = 0; attempt < stepsMax; attempt += 1) {
      const outcome = await this.#with.insertOrders.insert(entry, this.#deadline);
      switch (outcome.kind) {
        case 'created':
          return { placed: { order: outcome.order, replayed: false } };
        case 'exists':
          return await this.#answerWinner(orderId, outcome.stored);
        case 'dead':
          return await this.#startOver(orderId);
        case 'idTaken':
          return this.#anotherId();
        case 'moved':
      }
    }
    throw new Refusal('OUTCOME_UNKNOWN', 'The slot keeps moving');
  }

  /** The request got an id before: its order may exist, or its attempt may have died on the way. */
  async #adopt(orderId: bigint): Promise<Step> {
    this.#adopted = true;
    const stored = await this.#read(orderId);
    if (failpoints.on) await failpoints.hit('order.after_adopt_read', { orderIds: [orderId] });
    if (stored === undefined) return { orderId };
    return await this.#goOnWith(orderId, stored);
  }

  /** This id can never become an order: make sure of it, give its units back, take another. */
  async #startOver(orderId: bigint): Promise<Step> {
    const fence = await this.#with.fenceOrder(orderId, this.#deadline);
    if (fence.kind === 'exists' && fence.stored.order.status !== OrderStatus.ORDER_STATUS_ABORTED) {
      return await this.#goOnWith(orderId, fence.stored);
    }
    await this.#release(orderId);
    return this.#newStart();
  }

  async #goOnWith(orderId: bigint, stored: StoredOrder): Promise<Step> {
    if (stored.order.status === OrderStatus.ORDER_STATUS_ABORTED) {
      await this.#release(orderId);
      return this.#newStart();
    }
    const { userId, requestId } = this.#draft;
    if (stored.order.userId !== userId || stored.order.requestId !== requestId) {
      return this.#anotherId();
    }
    return { placed: replayOf(this.#draft, stored) };
  }

  /** Another order of this request is there. Its existence proves that ours cannot be. */
  async #answerWinner(ownId: bigint, winner: StoredOrder): Promise<Step> {
    if (winner.order.orderId === ownId) return { placed: replayOf(this.#draft, winner) };
    // A hold that cannot be given back now is found by the sweep; the winner is answered all the same.
    const sameContent = winner.fingerprintHex === this.#draft.fingerprintHex;
    if (sameContent) await this.#release(ownId).catch(() => undefined);
    else await this.#release(ownId);
    return { placed: replayOf(this.#draft, winner) };
  }

  /** An adopted id has been through the gate: what it is refused for now does not undo that. */
  async #refuse({
    reason,
    message,
    skuId,
    lookUp,
    retryAfterMs,
  }: ReservationRefusal): Promise<Step> {
    if (lookUp) {
      const stored = await this.#with.reader.lookUp(this.#draft, this.#deadline);
      if (stored !== undefined) return { placed: replayOf(this.#draft, stored) };
    }
    const name = reasonOf(reason);
    if (this.#adopted && refusalTable[name].retryAfterMs > 0) {
      throw new Refusal('OUTCOME_UNKNOWN', undefined, { cause: new Refusal(name, message) });
    }
    throw new Refusal(name, message === '' ? undefined : message, {
      retryAfterMs,
      ...(skuId === 0n ? {} : { skuId }),
    });
  }

  #newStart(): Step {
    if (this.#startedOver) throw new Refusal('OUTCOME_UNKNOWN', 'The request died twice');
    this.#startedOver = true;
    this.#adopted = false;
    return this.#anotherId();
  }

  #anotherId(): Step {
    return { orderId: this.#with.nextId(this.#draft.slot) };
  }

  async #read(orderId: bigint): Promise<StoredOrder | undefined> {
    try {
      return await this.#with.reader.byId(orderId, this.#deadline);
    } catch (cause) {
      throw new Refusal('OUTCOME_UNKNOWN', 'The order could not be read', { cause });
    }
  }

  async #release(orderId: bigint): Promise<void> {
    const { userId, requestId, lines } = this.#draft;
    const skuIds = lines.map(({ skuId }) => skuId);
    try {
      await this.#with.stock.release({ orderId, skuIds, userId, requestId }, this.#deadline);
    } catch (cause) {
      throw new Refusal('OUTCOME_UNKNOWN', 'The units could not be given back', { cause });
    }
  }
}

/** The order that a request has made. @throws Refusal IDEMPOTENCY_KEY_REUSED if it had other content */
export function replayOf(draft: OrderDraft, stored: StoredOrder): PlacedOrder {
  if (stored.fingerprintHex !== draft.fingerprintHex) throw new Refusal('IDEMPOTENCY_KEY_REUSED');
  return { order: stored.order, replayed: true };
}

/** A hold that does not cover the order, or has no price, must not become one. */
function isWhole({ lines }: OrderDraft, reserved: readonly ReservedLine[]): boolean {
  const currency = reserved[0]?.unitPrice?.currencyCode ?? '';
  if (reserved.length !== lines.length || !/^[A-Z]{3}$/.test(currency)) return false;
  return reserved.every(
    ({ skuId, quantity, unitPrice }, index) =>
      skuId === lines[index]?.skuId &&
      quantity === lines[index]?.quantity &&
      unitPrice?.currencyCode === currency &&
      unitPrice.minorUnits >= 0n,
  );
}
