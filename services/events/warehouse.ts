import type { RowDataPacket } from 'mysql2';
import { closeReasonToJSON, orderStatusToJSON } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { type KnownOrderEvent, newestByOrder } from './order-event.ts';
import { versionsIn } from './projections.ts';

/** One line of an order as analysis wants it. */
export interface OrderLineFact {
  readonly orderId: bigint;
  readonly skuId: bigint;
  /** Of the order; a fact is replaced by higher versions only. */
  readonly version: number;
  readonly userId: bigint;
  /** Without its prefix, such as `PAID`. */
  readonly status: string;
  /** Without its prefix; empty unless the order was closed without payment. */
  readonly closeReason: string;
  readonly quantity: number;
  readonly unitPriceMinor: bigint;
  readonly orderTotalMinor: bigint;
  readonly orderRefundedMinor: bigint;
  readonly currency: string;
  readonly paymentId: bigint;
  readonly orderCreateTime: Date;
  readonly eventTime: Date;
}

/** Where facts for analysis go. */
export interface Warehouse {
  /**
   * Stores facts unless it has newer ones; all of them or some, so that a failed call is repeated.
   *
   * @param facts ascending by order and line, each line once
   */
  store(facts: readonly OrderLineFact[], deadline: Deadline): Promise<void>;
  /** The oldest version of each of some orders' facts; orders without facts are absent. */
  versions(orderIds: readonly bigint[], deadline: Deadline): Promise<ReadonlyMap<bigint, number>>;
}

/** Makes facts of events. */
export function createWarehouseFacts(
  warehouse: Warehouse,
): (events: readonly KnownOrderEvent[], deadline: Deadline) => Promise<void> {
  return async (events, deadline) => {
    const facts = newestByOrder(events).flatMap(factsOf);
    if (facts.length > 0) await warehouse.store(facts, deadline);
  };
}

/** Rows of one statement at most: some 150 KB of text. */
const rowsMax = 1_000;

/** A warehouse behind the MySQL protocol: MySQL, MariaDB or TiDB. */
export function createMysqlWarehouse(pool: Pool): Warehouse {
  return {
    async store(facts, deadline) {
      for (let from = 0; from < facts.length; from += rowsMax) {
        const values = facts
          .slice(from, from + rowsMax)
          .map(valuesOf)
          .join(',');
        await query(pool, upsertSql(values), [], { deadline });
      }
    },
    async versions(orderIds, deadline) {
      if (orderIds.length === 0) return new Map();
      const sql = `SELECT order_id, MIN(version) AS version FROM order_line_facts
        WHERE order_id IN (${orderIds}) GROUP BY order_id`;
      return versionsIn(await query<RowDataPacket[]>(pool, sql, [], { deadline }));
    },
  };
}

const columns = [
  'order_id',
  'sku_id',
  'version',
  'user_id',
  'status',
  'close_reason',
  'quantity',
  'unit_price_minor',
  'order_total_minor',
  'order_refunded_minor',
  'currency',
  'payment_id',
  'order_create_time',
  'event_time',
];

/** MySQL assigns from left to right, so each column is compared with the old version: it goes last. */
const assignments = [...columns.filter((name) => !['order_id', 'sku_id', 'version'].includes(name))]
  .concat('version')
  .map((name) => `${name} = IF(VALUES(version) > version, VALUES(${name}), ${name})`);

function upsertSql(values: string): string {
  return `INSERT INTO order_line_facts (${columns.join(', ')}) VALUES ${values}
    ON DUPLICATE KEY UPDATE ${assignments.join(', ')}`;
}

/**
 * The texts are names of states and reasons and three capital letters, the rest are numbers and
 * times: nothing needs escaping, which costs the driver more than all else here.
 */
function valuesOf(fact: OrderLineFact): string {
  const { orderId, skuId, version, userId, status, closeReason, quantity, unitPriceMinor } = fact;
  const { orderTotalMinor, orderRefundedMinor, currency, paymentId } = fact;
  const times = `'${sqlTime(fact.orderCreateTime)}','${sqlTime(fact.eventTime)}'`;
  return (
    `(${orderId},${skuId},${version},${userId},'${status}','${closeReason}',${quantity},` +
    `${unitPriceMinor},${orderTotalMinor},${orderRefundedMinor},'${currency}',${paymentId},${times})`
  );
}

/** DATETIME(3), in the session's UTC. */
function sqlTime(time: Date): string {
  return time.toISOString().slice(0, 23).replace('T', ' ');
}

function factsOf(event: KnownOrderEvent): OrderLineFact[] {
  const lines = event.items.map(
    (item): OrderLineFact => ({
      orderId: event.orderId,
      skuId: item.skuId,
      version: event.version,
      userId: event.userId,
      status: orderStatusToJSON(event.status).replace('ORDER_STATUS_', ''),
      closeReason: event.closeReason
        ? closeReasonToJSON(event.closeReason).replace('CLOSE_REASON_', '')
        : '',
      quantity: item.quantity,
      unitPriceMinor: item.unitPrice?.minorUnits ?? 0n,
      orderTotalMinor: event.total.minorUnits,
      orderRefundedMinor: event.refunded?.minorUnits ?? 0n,
      currency: event.total.currencyCode,
      paymentId: event.paymentId,
      orderCreateTime: event.orderCreateTime,
      eventTime: event.eventTime,
    }),
  );
  return lines.sort((a, b) => (a.skuId < b.skuId ? -1 : 1));
}
