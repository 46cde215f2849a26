import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { expectAllAtRest } from '../support/expect-at-rest.ts';
import { killWhilePaying, type Victim } from '../support/kill-while-paying.ts';
import { setKnobs } from '../support/life-workload.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import type { Click } from '../support/workload.ts';

/** Every named place of the payment service, in the order of a payment's life. */
const paymentPlaces = [
  ...['payment.before_begin', 'payment.after_begin'],
  ...['payment.before_insert_commit', 'payment.after_insert_payment'],
  ...['payment.before_session', 'payment.after_session', 'payment.after_store_session'],
  ...['payment.before_webhook_commit', 'payment.after_webhook_commit'],
  ...['payment.before_record', 'payment.after_record'],
  ...['payment.before_settle_commit', 'payment.after_settle_commit'],
  ...['payment.after_claim_payments', 'payment.after_read_session'],
  ...['payment.before_apply_commit', 'payment.after_apply_commit'],
  ...['payment.before_close_order', 'payment.after_close_order'],
  ...['payment.before_close', 'payment.after_close'],
  ...['payment.before_refund_note_commit', 'payment.after_refund_note_commit'],
  ...['payment.after_claim_refunds', 'payment.after_read_refund'],
  ...['payment.before_refund', 'payment.after_refund'],
  ...['payment.before_refund_commit', 'payment.after_refund_commit'],
  ...['payment.before_tell_refund', 'payment.after_tell_refund'],
];
/** What order does after an order was made. */
const orderPlaces = [
  ...['order.before_begin_payment_commit', 'order.after_begin_payment_commit'],
  ...['order.before_record_payment_commit', 'order.after_record_payment_commit'],
  ...['order.before_record_refund_commit', 'order.after_record_refund_commit'],
  ...['order.before_begin_refund_commit', 'order.after_begin_refund_commit'],
  ...['order.before_cancel_commit', 'order.after_cancel_commit'],
  ...['order.before_expire_commit', 'order.after_expire_commit'],
  ...['order.before_close_payment', 'order.after_close_payment'],
  ...['order.before_refund_order', 'order.after_refund_order'],
  ...['relay.before_publish', 'relay.after_publish', 'relay.after_delete'],
];
const eventPlaces = [
  ...['consumer.before_handle', 'consumer.after_handle', 'statistics.before_commit'],
  ...['mail.after_claim', 'mail.before_send', 'mail.after_send'],
];
/** What stock does with the events of orders that were paid, cancelled and refunded. */
const stockPlaces = [
  ...['consumer.before_handle', 'consumer.after_handle'],
  ...['stock.after_release_commit', 'stock.before_credit'],
  'stock.before_audit_stored',
];

const skuIds = [1n, 2n, 3n];
const history: Click[] = [];
/** More than the bounds of one round together. */
const slow = { timeout: 780_000 };
let system: System;

before(async () => {
  system = await startSystem({
    name: 'paying',
    orders: 2,
    stocks: 2,
    payments: 2,
    events: true,
    env: {
      SLUICE_ORDER_EXPIRY_SECONDS: '3',
      SLUICE_SETTLE_AGE_MS: '2000',
      SLUICE_PAYMENT_POLL_MS: '1000',
    },
  });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 100_000n });
  // Without lost answers and late refunds, some places would never be reached.
  await setKnobs(system, {
    duplicates: 3,
    reorderMs: 300,
    loseAnswers: 'drop',
    loseShare: 0.25,
    // Longer than the first pause of a refund, which is so asked for before its webhook comes.
    refundsPendingMs: 1_500,
  });
});
after(() => system?.close());

for (const victimsOf of rounds()) {
  const names = victimsOf.map(([place]) => place).join(', ');
  test(`killed at ${names}, orders are paid again`, slow, async () => {
    const victims = victimsOf.map(
      ([place, processOf]): Victim => ({
        place,
        process: processOf(system),
      }),
    );
    history.push(...(await killWhilePaying({ system, victims, skuIds })));
  });
}

test('after all of this every promise holds, and the audit is clean', slow, async () => {
  await setKnobs(system, {});
  assert(history.length > 500, `${history.length} orders were tried`);
  await expectAllAtRest(system, history);
});

type PlaceOf = readonly [place: string, processOf: (system: System) => ServiceProcess];

/** In each round, both payment processes and one of each other service die somewhere; every place has its turn. */
function rounds(): PlaceOf[][] {
  const half = Math.ceil(paymentPlaces.length / 2);
  return Array.from({ length: Math.max(half, orderPlaces.length) }, (_, round) => {
    const at = (
      places: readonly string[],
      index: number,
      processOf: PlaceOf[1],
    ): readonly PlaceOf[] => {
      const place = places[index];
      return place === undefined ? [] : [[place, processOf]];
    };
    return [
      ...(round < half
        ? at(paymentPlaces, round, ({ payments }) => payments[0] as ServiceProcess)
        : []),
      ...at(paymentPlaces, half + round, ({ payments }) => payments[1] as ServiceProcess),
      ...at(orderPlaces, round, ({ orders }) => orders[0] as ServiceProcess),
      ...at(eventPlaces, round, ({ events }) => events as ServiceProcess),
      ...at(stockPlaces, round - eventPlaces.length, ({ stocks }) => stocks[0] as ServiceProcess),
    ];
  });
}
