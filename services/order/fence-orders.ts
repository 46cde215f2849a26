import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import {
  duplicateKeyErrno,
  isLockWait,
  lockWaitLimit,
  mysqlErrno,
  type PoolConnection,
  serverKindOf,
} from '../runtime/mysql.ts';
import { slotOfOrder } from './order-id.ts';
import { type OrderShards, type SlotRoutes, tableSuffix } from './order-shards.ts';

/** Whether an id could be fenced. */
export type FenceOutcome =
  /** The fence is committed: no order can ever be written under this id. */
  | 'fenced'
  /** A row is there already, an order or an earlier fence: read it. */
  | 'exists'
  /** A transaction on this id is under way. */
  | 'undecided';

/** Fences in one transaction at most, so that their locks are short. */
const fencesPerTransactionMax = 100;
/** How long a fence waits for a transaction that writes its order, where the server can bound it (MariaDB). */
const lockWaitMs = 100;
/** A fence that waits for a lock costs up to a second; with less time left the rest is undecided. */
const fenceMsMax = 1_500;

/**
 * Inserts an ABORTED row under each id of one database that has no row: the only proof that an
 * order does not exist, since an insert waits for a transaction that is about to write it. `routes`
 * is what led all ids to this database; by any other map the proof would be of the wrong place.
 *
 * @throws StaleSlotMap; Refusal OUTCOME_UNKNOWN or DEPENDENCY_DOWN; ids of earlier transactions may
 *   be fenced by then, which asking again shows
 */
export async function fenceOrders(
  shards: OrderShards,
  routes: SlotRoutes,
  databaseIndex: number,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<Map<bigint, FenceOutcome>> {
  const outcomes = new Map<bigint, FenceOutcome>();
  const sorted = [...new Set(orderIds)].sort((a, b) => (a < b ? -1 : 1));
  for (let start = 0; start < sorted.length; start += fencesPerTransactionMax) {
    const part = sorted.slice(start, start + fencesPerTransactionMax);
    if (failpoints.on) await failpoints.hit('order.before_abort_insert', { orderIds: part });
    const decided = await shards
      .database(databaseIndex)
      .transaction({ deadline, mapVersion: routes.version }, async (connection) => {
        const inPart: FenceOutcome[] = [];
        for (const orderId of part) {
          const late = deadline.leftMs() < fenceMsMax;
          inPart.push(late ? 'undecided' : await fence(routes, connection, orderId));
        }
        return inPart;
      });
    if (failpoints.on) await failpoints.hit('order.after_abort_insert', { orderIds: part });
    for (const [index, orderId] of part.entries()) {
      outcomes.set(orderId, decided[index] as FenceOutcome);
    }
  }
  return outcomes;
}

/** One row a statement: an error undoes this statement alone and the transaction goes on. */
async function fence(
  routes: SlotRoutes,
  connection: PoolConnection,
  orderId: bigint,
): Promise<FenceOutcome> {
  const table = tableSuffix(routes.tableOf(slotOfOrder(orderId)));
  try {
    await connection.query(
      lockWaitLimit(
        serverKindOf(connection),
        lockWaitMs,
        `INSERT INTO orders_${table} (order_id, user_id, status, create_time, expire_time, update_time)
       VALUES (${orderId}, 0, ${OrderStatus.ORDER_STATUS_ABORTED},
         UTC_TIMESTAMP(3), UTC_TIMESTAMP(3), UTC_TIMESTAMP(3))`,
      ),
    );
    return 'fenced';
  } catch (error) {
    const errno = mysqlErrno(error);
    if (errno === duplicateKeyErrno) return 'exists';
    if (isLockWait(error)) return 'undecided';
    throw error;
  }
}
