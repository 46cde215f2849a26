import type { ResultSetHeader } from 'mysql2/promise';
import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { findOrder, type OrderName } from './find-order.ts';
import { decideTransition, statusName, type Transition } from './order.ts';
import { StaleSlotMap } from './order-database.ts';
import type { OrderReader } from './order-reader.ts';
import { eventOf, insertOutboxRow, timeLiteral } from './order-rows.ts';
import type { OrderShards } from './order-shards.ts';

export interface CancelOrderOptions {
  readonly shards: OrderShards;
  readonly reader: OrderReader;
  /** Called with a database's number after a commit that left an outbox row. */
  readonly onCommit: (database: number) => void;
}

/**
 * Cancels an order for its buyer; an order that is cancelled already is answered unchanged.
 *
 * @throws Refusal NOT_FOUND, ILLEGAL_TRANSITION (it is paid), OUTCOME_UNKNOWN, DEPENDENCY_DOWN
 */
export type CancelOrder = (name: OrderName, deadline: Deadline) => Promise<Order>;

/** Losing to others this often in a row means that the order's state keeps changing. */
const attemptsMax = 5;

export function createCancelOrder(options: CancelOrderOptions): CancelOrder {
  return async (name, deadline) => {
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      const { order } = await findOrder(options.reader, name, deadline);
      const effect = decideTransition(order.status, 'cancel');
      if (effect.kind === 'done') return order;
      if (effect.kind === 'illegal') {
        const message = `The order is ${statusName(order.status)} and cannot be cancelled`;
        throw new Refusal('ILLEGAL_TRANSITION', message);
      }
      const changed = await compareAndSet(options, order, 'cancel', deadline);
      if (changed !== undefined) return changed;
    }
    throw new Refusal('OVERLOADED', 'The order kept changing');
  };
}

/** Moves an order out of the state that was read. @returns undefined if it has left that state */
async function compareAndSet(
  { shards, onCommit }: CancelOrderOptions,
  order: Order,
  transition: Transition,
  deadline: Deadline,
): Promise<Order | undefined> {
  const { database, table } = shards.placeOfOrder(order.orderId);
  try {
    const changed = await database.inTurn(
      () =>
        database.transaction({ deadline, mapVersion: shards.version }, (connection, now) =>
          move(connection, table, order, transition, now),
        ),
      deadline,
    );
    if (changed !== undefined) onCommit(database.index);
    return changed;
  } catch (error) {
    if (!(error instanceof StaleSlotMap)) throw error;
    await shards.refresh(database.index, deadline);
    return undefined;
  }
}

/** The state, its history and its event change in one transaction, or none of them does. */
async function move(
  connection: PoolConnection,
  table: string,
  order: Order,
  transition: Transition,
  now: Date,
): Promise<Order | undefined> {
  const effect = decideTransition(order.status, transition);
  if (effect.kind !== 'moves') return undefined;
  const version = order.version + 1;
  const [updated] = await connection.query<ResultSetHeader>(
    `UPDATE orders_${table}
     SET status = ?, close_reason = ?, version = ?, update_time = ${timeLiteral(now)}
     WHERE order_id = ? AND status = ? AND version = ?`,
    [effect.to, effect.closeReason, version, order.orderId, order.status, order.version],
  );
  if (updated.affectedRows !== 1) return undefined;
  await connection.query(
    `INSERT INTO order_history_${table}
       (order_id, version, from_status, to_status, close_reason, create_time)
     VALUES (?, ?, ?, ?, ?, ${timeLiteral(now)})`,
    [order.orderId, version, order.status, effect.to, effect.closeReason],
  );
  const { to: status, closeReason } = effect;
  const changed: Order = { ...order, status, closeReason, version, updateTime: now };
  await insertOutboxRow(connection, [eventOf(changed)]);
  return changed;
}
