import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Money } from '../../gen/sluice/stock/v1/money.ts';

/** An event of which everything that the consumers need is known to be there. */
export interface KnownOrderEvent extends OrderEvent {
  total: Money;
  eventTime: Date;
  orderCreateTime: Date;
}

const knownStatuses = new Set<number>(Object.values(OrderStatus).filter((status) => status > 0));
const knownReasons = new Set<number>(Object.values(CloseReason));

/**
 * Reads an event.
 *
 * @throws Error if the bytes are none, or if it is newer than this service: it would be counted wrong
 */
export function decodeOrderEvent(value: Uint8Array): KnownOrderEvent {
  return knownEvent(OrderEvent.decode(value));
}

/** The same for an event that came another way. @throws as `decodeOrderEvent` */
export function knownEvent(event: OrderEvent): KnownOrderEvent {
  const { orderId, userId, version, status, closeReason, total, eventTime } = event;
  if (orderId <= 0n || userId <= 0n) throw new Error('the event names no order or no user');
  if (version < 1) throw new Error(`version ${version} is none`);
  if (!knownStatuses.has(status)) throw new Error(`status ${status} is not known`);
  if (!knownReasons.has(closeReason)) throw new Error(`close reason ${closeReason} is not known`);
  if (eventTime === undefined) throw new Error('the event has no time');
  if (total === undefined || !isAmount(total)) throw new Error('the event has no total');
  const { currencyCode } = total;
  const ofOrder = (money: Money | undefined): boolean =>
    money !== undefined && isAmount(money) && money.currencyCode === currencyCode;
  if (event.refunded !== undefined && !ofOrder(event.refunded))
    throw new Error('what was refunded is no amount in the currency of the total');
  for (const { skuId, quantity, unitPrice } of event.items) {
    if (skuId > 0n && quantity > 0 && ofOrder(unitPrice)) continue;
    throw new Error(`the line of SKU ${skuId} is not complete`);
  }
  return { ...event, total, eventTime, orderCreateTime: event.orderCreateTime ?? eventTime };
}

/** The newest version of each order, ascending by order. */
export function newestByOrder<Event extends Pick<OrderEvent, 'orderId' | 'version'>>(
  events: readonly Event[],
): Event[] {
  const newest = new Map<bigint, Event>();
  for (const event of events) {
    const known = newest.get(event.orderId);
    if (known === undefined || event.version > known.version) newest.set(event.orderId, event);
  }
  return [...newest.values()].sort((a, b) => compare(a.orderId, b.orderId));
}

export function compare(a: bigint, b: bigint): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function isAmount({ currencyCode, minorUnits }: Money): boolean {
  return /^[A-Z]{3}$/.test(currencyCode) && minorUnits >= 0n;
}
