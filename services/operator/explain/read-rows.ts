import { OutboxBatch } from '../../../gen/sluice/event/v1/outbox.ts';
import { slotOfOrder } from '../order-id.ts';
import type { Database, Stores } from '../stores.ts';
import type { StoredRows } from './life-event.ts';

/** Outbox rows looked through: more than wait in a healthy system. */
const outboxRowsMax = 2_000;
const rowsMax = 1_000;

/** Everything that MySQL has under one order id, as it is stored. @throws CouldNotLook */
export async function readRows(stores: Stores, orderId: bigint): Promise<StoredRows> {
  const [index, table] = stores.slots[slotOfOrder(orderId)] as readonly [number, number];
  const suffix = String(table).padStart(2, '0');
  const orders = stores.orders[index] as Database;
  const { stock, payment, events, warehouse } = stores;
  const of = (database: Database, from: string): Promise<Record<string, unknown>[]> =>
    database.records(`SELECT * FROM ${from} WHERE order_id = ${orderId} LIMIT ${rowsMax}`);
  const payments = await of(payment, 'payments');
  const ids = payments.map((row) => row.payment_id).join(',') || 'NULL';
  const ofPayments = (from: string): Promise<Record<string, unknown>[]> =>
    payment.records(`SELECT * FROM ${from} WHERE payment_id IN (${ids}) LIMIT ${rowsMax}`);
  return {
    orders: (await of(orders, `orders_${suffix}`)).map(readable),
    order_items: (await of(orders, `order_items_${suffix}`)).map(readable),
    order_history: (await of(orders, `order_history_${suffix}`)).map(readable),
    archived_orders: (await of(orders, 'archived_orders')).map(readable),
    outbox: await waitingEvents(orders, orderId),
    stock_holds: (await of(stock, 'stock_holds')).map(readable),
    payments: payments.map(readable),
    refunds: (await ofPayments('refunds')).map(readable),
    webhook_inbox: (await ofPayments('webhook_inbox')).map(readable),
    closed_orders: (await of(payment, 'closed_orders')).map(readable),
    counted_orders: (await of(events, 'counted_orders')).map(readable),
    confirmation_mails: (await of(events, 'confirmation_mails')).map(readable),
    order_line_facts: (await of(warehouse, 'order_line_facts')).map(readable),
  };
}

/** Events of the order that Kafka does not have yet. */
async function waitingEvents(
  database: Database,
  orderId: bigint,
): Promise<Record<string, unknown>[]> {
  const rows = await database.records(
    `SELECT id, payload, create_time FROM outbox ORDER BY id LIMIT ${outboxRowsMax}`,
  );
  return rows.flatMap(({ id, payload, create_time }) => {
    const { messages } = OutboxBatch.decode(payload as Buffer);
    return messages
      .filter(({ key }) => key === orderId)
      .map(({ value }) => ({ id, create_time, event: Buffer.from(value).toString('base64') }));
  });
}

/** Names stored as bytes become texts, digests hexadecimal; bodies are left to whoever opens the store. */
function readable(row: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(row)
      .filter(([name]) => name !== 'payload' && !(name === 'body' && Buffer.isBuffer(row[name])))
      .map(([name, value]) => {
        if (!Buffer.isBuffer(value)) return [name, value];
        return [name, value.toString(name === 'fingerprint' ? 'hex' : 'latin1')];
      }),
  );
}
