import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { compare, type KnownOrderEvent } from './order-event.ts';

/**
 * An event about an order older than this, saying that money went back, brings no confirmation: the
 * payment's own event came long ago, and the row that remembers its mail may be gone.
 */
const lateEventMs = 7 * 24 * 3_600_000;

/**
 * Notes that the buyers of paid orders are to be written to: one row an order, the first event that
 * says "was paid" wins, whichever of them comes first.
 *
 * @param wake called when there are mails to send
 */
export function createConfirmationMails(
  pool: Pool,
  wake: () => void,
): (events: readonly KnownOrderEvent[], deadline: Deadline) => Promise<void> {
  return async (events, deadline) => {
    const first = new Map<bigint, KnownOrderEvent>();
    for (const event of events) {
      if (saysPaid(event) && !first.has(event.orderId)) first.set(event.orderId, event);
    }
    if (first.size === 0) return;
    const rows = [...first.values()]
      .sort((a, b) => compare(a.orderId, b.orderId))
      .map((event) => [event.orderId, event.userId, payloadOf(event)]);
    const values = rows.map(() => '(?, NOW(3), NOW(3))').join(',');
    await query(
      pool,
      `INSERT INTO confirmation_mails (order_id, user_id, payload, next_time, create_time)
       VALUES ${values} ON DUPLICATE KEY UPDATE order_id = VALUES(order_id)`,
      rows,
      { deadline },
    );
    wake();
  };
}

/** Whether an event says that its order was paid, in the states that come after it too. */
export function saysPaid({
  status,
  refunded,
  eventTime,
  orderCreateTime,
}: Pick<KnownOrderEvent, 'status' | 'refunded' | 'eventTime' | 'orderCreateTime'>): boolean {
  const late = eventTime.getTime() - orderCreateTime.getTime() > lateEventMs;
  switch (status) {
    case OrderStatus.ORDER_STATUS_PAID:
      return !late || (refunded?.minorUnits ?? 0n) === 0n;
    case OrderStatus.ORDER_STATUS_REFUNDING:
    case OrderStatus.ORDER_STATUS_REFUNDED:
      return !late;
    default:
      return false;
  }
}

/** Whether an order in this state was paid, whatever became of the money later. */
export function wasPaid(status: OrderStatus): boolean {
  return (
    status === OrderStatus.ORDER_STATUS_PAID ||
    status === OrderStatus.ORDER_STATUS_REFUNDING ||
    status === OrderStatus.ORDER_STATUS_REFUNDED
  );
}

function payloadOf(event: KnownOrderEvent): Buffer {
  return Buffer.from(OrderEvent.encode(event).finish());
}
