import type { RowDataPacket } from 'mysql2/promise';
import {
  CloseReason,
  type Order,
  OrderStatus,
  type OrderTransition,
} from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import { isHidden } from './order.ts';
import type { OrderReader } from './order-reader.ts';
import type { StoredOrder } from './order-rows.ts';
import type { OrderShards } from './order-shards.ts';

/** Names an order; user 0 means any user's, for internal callers. */
export interface OrderName {
  readonly orderId: bigint;
  readonly userId: bigint;
}

/** @throws Refusal NOT_FOUND, also for another user's order; DEPENDENCY_DOWN */
export async function findOrder(
  reader: OrderReader,
  { orderId, userId }: OrderName,
  deadline: Deadline,
): Promise<StoredOrder> {
  const stored = await reader.byId(orderId, deadline);
  const visible =
    stored !== undefined &&
    !isHidden(stored.order.status) &&
    (userId === 0n || stored.order.userId === userId);
  if (!visible) throw new Refusal('NOT_FOUND', 'There is no such order');
  return stored;
}

/** The creation and every change of state after it, oldest first. @throws as `findOrder` */
export async function readOrderHistory(
  shards: OrderShards,
  reader: OrderReader,
  name: OrderName,
  deadline: Deadline,
): Promise<OrderTransition[]> {
  const { order } = await findOrder(reader, name, deadline);
  const { database, table } = shards.placeOfOrder(name.orderId);
  const sql = `SELECT version, from_status, to_status, close_reason, create_time
    FROM order_history_${table} WHERE order_id = ${name.orderId} ORDER BY version`;
  const rows = await database.inTurn(
    () => database.query<RowDataPacket[]>(sql, deadline),
    deadline,
  );
  return [
    creationOf(order),
    ...rows.map((row) => ({
      version: row.version as number,
      fromStatus: row.from_status as OrderStatus,
      toStatus: row.to_status as OrderStatus,
      closeReason: row.close_reason as CloseReason,
      transitionTime: row.create_time as Date,
    })),
  ];
}

function creationOf(order: Order): OrderTransition {
  return {
    version: 1,
    fromStatus: OrderStatus.ORDER_STATUS_UNSPECIFIED,
    toStatus: OrderStatus.ORDER_STATUS_PENDING,
    closeReason: CloseReason.CLOSE_REASON_UNSPECIFIED,
    transitionTime: order.createTime,
  };
}
