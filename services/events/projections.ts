import type { RowDataPacket } from 'mysql2';
import type { OrderVersion } from '../../gen/sluice/event/v1/order_state_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import { wasPaid } from './confirmation-mail.ts';
import type { KnownOrderEvent } from './order-event.ts';
import type { Warehouse } from './warehouse.ts';

const dayMs = 86_400_000;
/** Far less than the time for which orders that were paid are kept. */
const comparedMs = 30 * dayMs;
/**
 * A confirmation that comes later than this after the order surprises more than it helps; and it is less
 * than the week after which the row that remembers a mail may be pruned, so that none goes twice.
 */
const mailedMs = 3 * dayMs;
/** Orders named in one statement: more, and MariaDB makes a table of them. */
const idsMax = 500;

/** What one consumer makes of order events, and how it tells which orders it lacks. */
export interface Projection {
  readonly name: string;
  /** How old orders may be that it is compared with. */
  readonly ageMaxMs: number;
  handle(events: readonly KnownOrderEvent[], deadline: Deadline): Promise<void>;
  /** Of some orders those whose present version it does not have. */
  lacking(orders: readonly OrderVersion[], deadline: Deadline): Promise<OrderVersion[]>;
}

type Handle = Projection['handle'];

export function statisticsProjection(name: string, handle: Handle, pool: Pool): Projection {
  const sql =
    'SELECT order_id, version FROM counted_orders FORCE INDEX (PRIMARY) WHERE order_id IN (?)';
  return {
    ...{ name, handle, ageMaxMs: comparedMs },
    lacking: (orders, deadline) =>
      lackingBy(orders, async (ids) => versionsIn(await query(pool, sql, [ids], { deadline }))),
  };
}

export function warehouseProjection(
  name: string,
  handle: Handle,
  warehouse: Warehouse,
): Projection {
  return {
    ...{ name, handle, ageMaxMs: comparedMs },
    lacking: (orders, deadline) => lackingBy(orders, (ids) => warehouse.versions(ids, deadline)),
  };
}

/** Only orders that were paid have a mail, and one each, whatever their version. */
export function mailProjection(name: string, handle: Handle, pool: Pool): Projection {
  const sql = `SELECT order_id, ${2 ** 31 - 1} AS version FROM confirmation_mails FORCE INDEX (PRIMARY)
    WHERE order_id IN (?)`;
  return {
    ...{ name, handle, ageMaxMs: mailedMs },
    async lacking(orders, deadline) {
      const paid = orders.filter(({ status }) => wasPaid(status));
      const read = async (ids: readonly bigint[]): Promise<ReadonlyMap<bigint, number>> =>
        versionsIn(await query(pool, sql, [ids], { deadline }));
      return await lackingBy(paid, read);
    },
  };
}

async function lackingBy(
  orders: readonly OrderVersion[],
  versionsOf: (orderIds: readonly bigint[]) => Promise<ReadonlyMap<bigint, number>>,
): Promise<OrderVersion[]> {
  const lacking: OrderVersion[] = [];
  for (let from = 0; from < orders.length; from += idsMax) {
    const some = orders.slice(from, from + idsMax);
    const versions = await versionsOf(some.map(({ orderId }) => orderId));
    lacking.push(...some.filter(({ orderId, version }) => version > (versions.get(orderId) ?? 0)));
  }
  return lacking;
}

/** Rows with an order and a version, as a map. */
export function versionsIn(rows: readonly RowDataPacket[]): ReadonlyMap<bigint, number> {
  return new Map(rows.map((row) => [BigInt(row.order_id), Number(row.version)]));
}
