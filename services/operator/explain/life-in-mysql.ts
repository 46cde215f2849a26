import { OrderEvent } from '../../../gen/sluice/event/v1/order_event.ts';
import {
  closeReasonName,
  holdName,
  order as orderState,
  paymentName,
  refundName,
  settlementName,
  statusName,
} from '../audit/states.ts';
import { archivedLife } from './archived-order.ts';
import { type LifeEvent, money, type StoredRows, timeOf } from './life-event.ts';

type Record_ = Record<string, unknown>;

/** What the rows of MySQL tell, store by store. */
export function lifeInMysql(rows: StoredRows): LifeEvent[] {
  return [
    ...each(rows.orders, orderLife),
    ...each(rows.order_history, (row) => [
      {
        time: timeOf(row.create_time),
        store: 'order',
        what: `${statusName(Number(row.from_status))} → ${statusName(Number(row.to_status))}${reasonOf(row)}, version ${row.version}`,
      },
    ]),
    ...each(rows.archived_orders, archivedLife),
    ...each(rows.outbox, (row) => [
      {
        time: timeOf(row.create_time),
        store: 'outbox',
        what: `its event ${eventInWords(Buffer.from(String(row.event), 'base64'))} waits to be published`,
      },
    ]),
    ...each(rows.stock_holds, holdLife),
    ...each(rows.payments, paymentLife),
    ...each(rows.refunds, refundLife),
    ...each(rows.webhook_inbox, (row) => [
      {
        time: timeOf(row.create_time),
        store: 'payment',
        what: `webhook ${row.event_type} (${row.event_id}) of payment ${row.payment_id}: ${row.effect}`,
      },
    ]),
    ...each(rows.closed_orders, (row) => [
      {
        time: timeOf(row.create_time),
        store: 'payment',
        what: 'fenced: no payment may begin any more',
      },
    ]),
    ...each(rows.counted_orders, (row) => [
      {
        time: timeOf(row.update_time),
        store: 'statistics',
        what: `counted as ${statusName(Number(row.status))}, version ${row.version}`,
      },
    ]),
    ...each(rows.confirmation_mails, mailLife),
    ...each(rows.order_line_facts, (row) => [
      {
        time: timeOf(row.event_time),
        store: 'warehouse',
        what: `the fact of SKU ${row.sku_id} says ${row.status}, version ${row.version}`,
      },
    ]),
  ];
}

/** An event's content in a few words. */
export function eventInWords(value: Uint8Array): string {
  const event = OrderEvent.decode(value);
  const restock = event.restock ? ', restock' : '';
  return `${statusName(event.status)}, version ${event.version}${restock}`;
}

function each(
  rows: readonly Record_[] | undefined,
  tell: (row: Record_) => LifeEvent[],
): LifeEvent[] {
  return (rows ?? []).flatMap(tell);
}

function reasonOf(row: Record_): string {
  return row.close_reason ? ` (${closeReasonName(Number(row.close_reason))})` : '';
}

function orderLife(row: Record_): LifeEvent[] {
  if (Number(row.status) === orderState.aborted) {
    const what = 'fenced (ABORTED): this id was given up and can never become an order';
    return [{ time: timeOf(row.create_time), store: 'order', what }];
  }
  const total = money(row.total_minor, row.currency);
  const events = [
    {
      time: timeOf(row.create_time),
      store: 'order',
      what: `created for user ${row.user_id}, request "${row.request_id}", total ${total}`,
    },
  ];
  if (Number(row.status) === orderState.pending) {
    const begun = row.payment_begun ? ' (a payment was begun, so its session is voided first)' : '';
    const what = `expires unless it is paid${begun}`;
    events.push({ time: timeOf(row.expire_time), store: 'order', what });
  }
  return events;
}

function holdLife(row: Record_): LifeEvent[] {
  const state = holdName(Number(row.state));
  const created = timeOf(row.create_time);
  const updated = timeOf(row.update_time);
  if (state === 'FENCED') {
    const what = `fenced for SKU ${row.sku_id}: a late post would be refused`;
    return [{ time: created, store: 'stock', what }];
  }
  const units = `${row.units} of SKU ${row.sku_id} at ${money(row.unit_price_minor, row.currency)}`;
  const events = [{ time: created, store: 'stock', what: `held: ${units}` }];
  if (state !== 'HELD') {
    events.push({
      time: updated,
      store: 'stock',
      what: `the hold of SKU ${row.sku_id} is ${state}`,
    });
  }
  return events;
}

function paymentLife(row: Record_): LifeEvent[] {
  const name = `payment ${row.payment_id}`;
  const amount = money(row.amount_minor, row.currency);
  const settled = Number(row.settlement) ? `, ${settlementName(Number(row.settlement))}` : '';
  const captured =
    row.captured_minor === null
      ? ''
      : `, captured ${money(row.captured_minor, row.captured_currency)}`;
  const next = row.next_time ? `, looked at again ${timeOf(row.next_time)}` : '';
  const failure = row.failure ? `, ${row.failure}` : '';
  return [
    {
      time: timeOf(row.create_time),
      store: 'payment',
      what: `${name} of ${amount} with ${row.provider} (${row.provider_reference ?? 'no session yet'})`,
    },
    {
      time: timeOf(row.update_time),
      store: 'payment',
      what: `${name} is ${paymentName(Number(row.status))}${settled}${captured}${failure}${next}`,
    },
  ];
}

function refundLife(row: Record_): LifeEvent[] {
  const name = `refund ${row.refund_id}`;
  const restock = Number(row.restock) ? ', units back on sale' : '';
  const failure = row.failure ? `, ${row.failure}` : '';
  return [
    {
      time: timeOf(row.create_time),
      store: 'payment',
      what: `${name} of ${money(row.amount_minor, row.currency)} of payment ${row.payment_id} asked for as "${row.request_id}"${restock}`,
    },
    {
      time: timeOf(row.update_time),
      store: 'payment',
      what: `${name} is ${refundName(Number(row.status))}${failure}`,
    },
  ];
}

function mailLife(row: Record_): LifeEvent[] {
  const events = [
    { time: timeOf(row.create_time), store: 'mail', what: 'confirmation to be sent' },
  ];
  if (row.sent_time) {
    const what = `confirmation sent at attempt ${row.attempts}`;
    events.push({ time: timeOf(row.sent_time), store: 'mail', what });
  } else {
    const next = row.next_time ? 'will be tried' : `was given up (${row.failure})`;
    const what = `confirmation ${next} after ${row.attempts} attempts`;
    events.push({ time: timeOf(row.next_time), store: 'mail', what });
  }
  return events;
}
