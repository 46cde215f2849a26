import {
  CloseReason,
  type Order,
  type OrderItem,
  OrderStatus,
} from '../../gen/sluice/order/v1/order.ts';
import type { ReservedLine } from '../../gen/sluice/stock/v1/stock_service.ts';
import type { OrderDraft } from './order-draft.ts';
import type { StoredOrder } from './order-rows.ts';

/** A reserved order on its way into its table. */
export interface NewOrder {
  readonly orderId: bigint;
  readonly draft: OrderDraft;
  /** What stock holds for it, with prices, in the order of the draft's lines. */
  readonly reserved: readonly ReservedLine[];
  /** Whether an earlier attempt may be inserting the same order now. */
  readonly adopted: boolean;
}

/** What became of an order that was to be inserted. */
export type InsertOutcome =
  | { readonly kind: 'created'; readonly order: Order }
  /** An order of this (user, request id) is there, under this id or another. */
  | { readonly kind: 'exists'; readonly stored: StoredOrder }
  /** The id is fenced: this order must never be. */
  | { readonly kind: 'dead' }
  /** The id belongs to another user or request. */
  | { readonly kind: 'idTaken' }
  /** Its slot lives in another database now: insert it again. */
  | { readonly kind: 'moved' };

/** The order as it will be stored, created now by MySQL's clock. */
export function orderOf(entry: NewOrder, now: Date, expiryMs: number): Order {
  const { orderId, draft, reserved } = entry;
  const currencyCode = reserved[0]?.unitPrice?.currencyCode ?? '';
  let minorUnits = 0n;
  const items = reserved.map((line): OrderItem => {
    minorUnits += (line.unitPrice?.minorUnits ?? 0n) * BigInt(line.quantity);
    return { skuId: line.skuId, quantity: line.quantity, unitPrice: line.unitPrice };
  });
  return {
    orderId,
    userId: draft.userId,
    status: OrderStatus.ORDER_STATUS_PENDING,
    items,
    total: { currencyCode, minorUnits },
    createTime: now,
    expireTime: new Date(now.getTime() + expiryMs),
    closeReason: CloseReason.CLOSE_REASON_UNSPECIFIED,
    requestId: draft.requestId,
    version: 1,
    updateTime: now,
    paymentId: 0n,
    refunded: undefined,
  };
}
