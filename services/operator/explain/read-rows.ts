import { OutboxBatch, type OutboxMessage } from '../../../gen/sluice/event/v1/outbox.ts';
import { slotOfOrder } from '../order-id.ts';
import type { Database, Stores } from '../stores.ts';
import type { StoredRows } from './life-event.ts';

/** Outbox rows looked through: more than wait in a healthy system. */
const outboxRowsMax = 2_000;
/** Read at once: a row may hold the events of 500 orders. */
const outboxStep = 100;
const rowsMax = 1_000;

/** Everything that MySQL has under one order id, as it is stored, and what of it was left out. @throws CouldNotLook */
export async function readRows(
  stores: Stores,
  orderId: bigint,
): Promise<{ rows: StoredRows; gaps: string[] }> {
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
  const outbox = await waitingEvents(orders, orderId);
  const rows = {
    orders: (await of(orders, `orders_${suffix}`)).map(readable),
    order_items: (await of(orders, `order_items_${suffix}`)).map(readable),
    order_history: (await of(orders, `order_history_${suffix}`)).map(readable),
    archived_orders: (await of(orders, 'archived_orders')).map(readable),
    outbox: outbox.events,
    stock_holds: (await of(stock, 'stock_holds')).map(readable),
    payments: payments.map(readable),
    refunds: (await ofPayments('refunds')).map(readable),
    webhook_inbox: (await ofPayments('webhook_inbox')).map(readable),
    closed_orders: (await of(payment, 'closed_orders')).map(readable),
    counted_orders: (await of(events, 'counted_orders')).map(readable),
    confirmation_mails: (await of(events, 'confirmation_mails')).map(readable),
    order_line_facts: (await of(warehouse, 'order_line_facts')).map(readable),
  };
  const gap = `More than ${outboxRowsMax} rows wait in the outbox; only the oldest were read.`;
  return { rows, gaps: outbox.isComplete ? [] : [gap] };
}

/** Events of the order that Kafka does not have yet. */
async function waitingEvents(
  database: Database,
  orderId: bigint,
): Promise<{ events: Record<string, unknown>[]; isComplete: boolean }> {
  const events: Record<string, unknown>[] = [];
  let after: unknown = 0;
  for (let read = 0; read < outboxRowsMax; read += outboxStep) {
    const rows = await database.records(
      `SELECT id, payload, create_time FROM outbox WHERE id > ${after} ORDER BY id LIMIT ${outboxStep}`,
    );
    for (const { id, payload, create_time } of rows) {
      for (const { key, value } of messagesIn(payload as Buffer)) {
        if (key !== orderId) continue;
        events.push({ id, create_time, event: Buffer.from(value).toString('base64') });
      }
    }
    if (rows.length < outboxStep) return { events, isComplete: true };
    after = rows.at(-1)?.id;
  }
  return { events, isComplete: false };
}

/** A row that cannot be read is about to be set aside, and is of no order. */
function messagesIn(payload: Buffer): OutboxMessage[] {
  try {
    return OutboxBatch.decode(payload).messages;
  } catch {
    return [];
  }
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
