import type { OutboxMessage } from '../../gen/sluice/event/v1/outbox.ts';
import type { Order } from '../../gen/sluice/order/v1/order.ts';
import {
  literal,
  lockWaitLimit,
  type PoolConnection,
  type ServerKind,
  serverKindOf,
} from '../runtime/mysql.ts';
import type { NewOrder } from './new-order.ts';
import { eventOf, insertOutboxSql } from './order-rows.ts';
import { type SlotRoutes, tableSuffix } from './order-shards.ts';
import { insertItemsSql, insertOrdersSql } from './order-statements.ts';
import { byTable } from './read-orders.ts';

/**
 * How long the orders of one table are waited for where the server can bound it (MariaDB): far longer
 * than it takes to write them, shorter than a lock wait. MySQL waits for a lock for a second.
 */
const insertMsMax = 300;

/** An order of the batch cannot be put into a statement or an event; nothing was sent for any of them. */
export class UnwritableOrder extends Error {}

/** The new orders of one database, each with what is written of it. */
export interface OrderBatch {
  readonly routes: SlotRoutes;
  readonly orders: ReadonlyMap<NewOrder, Order>;
}

/**
 * Writes orders, items and one outbox row with all events, in one round trip; fails at the first row
 * that is refused. @throws UnwritableOrder, and what the server answers
 */
export async function insertWithEvents(
  connection: PoolConnection,
  batch: OrderBatch,
): Promise<void> {
  const entries = [...batch.orders.keys()];
  const statements = rowStatements(serverKindOf(connection), batch, entries);
  statements.push(insertOutboxSql(eventsOf(batch, entries)));
  await connection.query(literal(statements.join(';')));
}

/** Writes the rows of some of the orders, without events. @throws as `insertWithEvents` */
export async function insertRows(
  connection: PoolConnection,
  batch: OrderBatch,
  part: readonly NewOrder[],
): Promise<void> {
  const statements = rowStatements(serverKindOf(connection), batch, part);
  await connection.query(literal(statements.join(';')));
}

/** The events of some of the orders. @throws UnwritableOrder */
export function eventsOf({ orders }: OrderBatch, part: readonly NewOrder[]): OutboxMessage[] {
  return writable(() => part.map((entry) => eventOf(orders.get(entry) as Order)));
}

/** The server stops at the first of them that fails. */
function rowStatements(
  kind: ServerKind,
  { routes, orders }: OrderBatch,
  part: readonly NewOrder[],
): string[] {
  const rows = part.map((entry) => ({
    order: orders.get(entry) as Order,
    fingerprintHex: entry.draft.fingerprintHex,
    slot: entry.draft.slot,
  }));
  const groups = [...byTable(routes, rows, ({ slot }) => slot)].sort(([a], [b]) => a - b);
  return writable(() =>
    groups.flatMap(([table, group]) => [
      lockWaitLimit(kind, insertMsMax, insertOrdersSql(tableSuffix(table), group)),
      insertItemsSql(tableSuffix(table), group),
    ]),
  );
}

function writable<Written>(write: () => Written): Written {
  try {
    return write();
  } catch (cause) {
    throw new UnwritableOrder('An order cannot be written', { cause });
  }
}
