import type { CreateOrderRequest } from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import type { InsertOrders } from './insert-orders.ts';
import { draftOrder, type OrderDraft } from './order-draft.ts';
import type { OrderReader } from './order-reader.ts';
import type { OrderShards } from './order-shards.ts';
import type { OutboxGuard } from './outbox-guard.ts';
import { type PlacedOrder, type PlaceOrder, replayOf } from './place-order.ts';

export interface TakeOrderOptions {
  readonly shards: OrderShards;
  readonly outbox: Pick<OutboxGuard, 'check'>;
  readonly reader: Pick<OrderReader, 'lookUp'>;
  readonly insertOrders: Pick<InsertOrders, 'expectedMs'>;
  readonly placeOrder: PlaceOrder;
}

/** Takes one request to create an order. @throws Refusal as `PlaceOrder`, and INVALID_REQUEST */
export type TakeOrder = (request: CreateOrderRequest, deadline: Deadline) => Promise<PlacedOrder>;

/**
 * Checks a request, and that its order could be stored in time, before anything is reserved for it:
 * units that are held for an order which cannot be are units that nobody can buy.
 */
export function createTakeOrder(options: TakeOrderOptions): TakeOrder {
  const { shards, outbox, reader, insertOrders, placeOrder } = options;

  /** A request that has made its order is answered with it, whatever keeps new ones from being made. */
  async function replayOrRefuse(
    draft: OrderDraft,
    refusal: unknown,
    deadline: Deadline,
  ): Promise<PlacedOrder> {
    const stored = await reader.lookUp(draft, deadline);
    if (stored === undefined) throw refusal;
    return replayOf(draft, stored);
  }

  return async (request, deadline) => {
    const draft = draftOrder(request);
    if (Array.isArray(draft)) throw invalidRequest(draft);
    const index = shards.databaseOf(draft.slot);
    if (shards.database(index).away) {
      throw new Refusal('DEPENDENCY_DOWN', "The database of this user's orders is away");
    }
    if (insertOrders.expectedMs(draft.slot) > deadline.leftMs()) {
      throw new Refusal('OVERLOADED', 'The order could not be stored in time');
    }
    try {
      outbox.check(index);
    } catch (refusal) {
      return await replayOrRefuse(draft, refusal, deadline);
    }
    return await placeOrder(draft, deadline);
  };
}
