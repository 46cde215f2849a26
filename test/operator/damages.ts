// What can be broken by SQL in an installation that `fill` made, one thing at a time, and what the audit must call it.

/** Names of tables and rows for one damage; `t('orders', n)` is the table that the n-th order is in. */
export interface Names {
  readonly t: (table: 'orders' | 'order_items' | 'order_history', n: number) => string;
  /** The id of the n-th order. */
  readonly id: (n: number) => string;
  readonly stock: string;
  readonly payment: string;
  readonly events: string;
  readonly warehouse: string;
  /** A database that no service knows, for what is put aside. */
  readonly aside: string;
  /** A payment's id is 1000 + n, and so is its refund's. */
  readonly db: (n: number) => string;
}

export interface Damage {
  readonly name: string;
  readonly flaws: readonly string[];
  /** What is broken, and what mends it again. */
  readonly sql: (names: Names) => readonly [damage: string, repair: string];
}

/** n-th orders of each kind, without a second line and with one. */
export const paid = 1;
const twoLines = 3;
const pending = 10;
const cancelled = 13;
const voided = 32;
export const late = 16;
const partly = 17;
const refunded = 18;
const restocked = 38;
const fence = 19;

const unchecked = (sql: string): string =>
  `SET check_constraint_checks = 0; ${sql}; SET check_constraint_checks = 1`;

export const damages: readonly Damage[] = [
  {
    name: 'a unit that was sold twice',
    flaws: ['P1 units-differ', 'P1 rows-differ-from-figures'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET units = units + 1 WHERE order_id = ${id(paid)}`,
      `UPDATE ${stock}.stock_holds SET units = units - 1 WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'a figure that lost a unit',
    flaws: ['P1 figures-do-not-add-up'],
    sql: ({ stock }) => [
      unchecked(`UPDATE ${stock}.skus SET available = available - 1 WHERE sku_id = 2`),
      `UPDATE ${stock}.skus SET available = available + 1 WHERE sku_id = 2`,
    ],
  },
  {
    name: 'a negative figure',
    flaws: ['P1 figures-do-not-add-up', 'P1 negative-figure'],
    sql: ({ stock }) => [
      unchecked(`UPDATE ${stock}.skus SET available = available - 2000 WHERE sku_id = 2`),
      `UPDATE ${stock}.skus SET available = available + 2000 WHERE sku_id = 2`,
    ],
  },
  {
    name: 'figures that are moved without a hold',
    flaws: ['P1 rows-differ-from-figures'],
    sql: ({ stock }) => [
      `UPDATE ${stock}.skus SET available = available - 1, sold = sold + 1 WHERE sku_id = 2`,
      `UPDATE ${stock}.skus SET available = available + 1, sold = sold - 1 WHERE sku_id = 2`,
    ],
  },
  {
    name: 'an order whose hold is gone',
    flaws: ['P1 line-without-hold', 'P1 rows-differ-from-figures'],
    sql: ({ stock, id }) => [
      `CREATE TABLE ${stock}.kept AS SELECT * FROM ${stock}.stock_holds WHERE order_id = ${id(pending)};
       DELETE FROM ${stock}.stock_holds WHERE order_id = ${id(pending)}`,
      `INSERT INTO ${stock}.stock_holds SELECT * FROM ${stock}.kept; DROP TABLE ${stock}.kept`,
    ],
  },
  {
    name: 'a buyer above the limit, which is told and breaks no promise',
    flaws: ['P1 limit-exceeded'],
    sql: ({ stock }) => [
      `UPDATE ${stock}.skus SET limit_per_user = 1 WHERE sku_id = 2`,
      `UPDATE ${stock}.skus SET limit_per_user = 0 WHERE sku_id = 2`,
    ],
  },
  {
    name: 'an order in two tables',
    flaws: ['P2 order-twice', 'P2 order-in-wrong-table'],
    sql: ({ t, id }) => [
      `INSERT INTO ${t('orders', 2)} SELECT * FROM ${t('orders', paid)} WHERE order_id = ${id(paid)}`,
      `DELETE FROM ${t('orders', 2)} WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'an order of a user whose orders are elsewhere',
    flaws: ['P2 order-of-wrong-slot'],
    sql: ({ t, id, stock, payment }) => {
      const set = (by: string): string =>
        `UPDATE ${t('orders', paid)} SET user_id = user_id ${by} WHERE order_id = ${id(paid)};
         UPDATE ${stock}.stock_holds SET user_id = user_id ${by} WHERE order_id = ${id(paid)};
         UPDATE ${payment}.payments SET user_id = user_id ${by} WHERE order_id = ${id(paid)}`;
      return [set('+ 1000000007'), set('- 1000000007')];
    },
  },
  {
    name: 'an order without a request id',
    flaws: ['P2 no-request-id'],
    sql: ({ t, id }) => [
      `UPDATE ${t('orders', paid)} SET request_id = NULL WHERE order_id = ${id(paid)}`,
      `UPDATE ${t('orders', paid)} SET request_id = 'r1' WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'a unique key that was dropped',
    flaws: ['P2 unique-key-missing'],
    sql: ({ t }) => [
      `ALTER TABLE ${t('orders', paid)} DROP KEY user_request`,
      `ALTER TABLE ${t('orders', paid)} ADD UNIQUE KEY user_request (user_id, request_id)`,
    ],
  },
  {
    name: 'a total that is not the sum of the lines',
    flaws: ['P3 total-differs'],
    sql: ({ t, id, events, warehouse }) => {
      const set = (by: string): string =>
        `UPDATE ${t('orders', pending)} SET total_minor = total_minor ${by} WHERE order_id = ${id(pending)};
         UPDATE ${events}.counted_orders SET total_minor = total_minor ${by} WHERE order_id = ${id(pending)};
         UPDATE ${warehouse}.order_line_facts SET order_total_minor = order_total_minor ${by} WHERE order_id = ${id(pending)}`;
      return [set('+ 1'), set('- 1')];
    },
  },
  {
    name: 'lines whose order is gone',
    flaws: ['P3 lines-without-order', 'P3 history-without-order', 'P7 effect-without-order'],
    sql: ({ t, id, aside }) => [
      `CREATE TABLE ${aside}.kept AS SELECT * FROM ${t('orders', cancelled)} WHERE order_id = ${id(cancelled)};
       DELETE FROM ${t('orders', cancelled)} WHERE order_id = ${id(cancelled)}`,
      `INSERT INTO ${t('orders', cancelled)} SELECT * FROM ${aside}.kept; DROP TABLE ${aside}.kept`,
    ],
  },
  {
    name: 'an order without lines',
    flaws: ['P3 no-lines', 'P3 hold-without-line', 'P7 warehouse-differs'],
    sql: ({ t, id }) => [
      `DELETE FROM ${t('order_items', paid)} WHERE order_id = ${id(paid)}`,
      `INSERT INTO ${t('order_items', paid)} VALUES (${id(paid)}, 2, 2, 2000)`,
    ],
  },
  {
    name: 'a line that lost its second half',
    flaws: ['P3 total-differs', 'P3 hold-without-line', 'P7 warehouse-differs'],
    sql: ({ t, id }) => [
      `DELETE FROM ${t('order_items', twoLines)} WHERE order_id = ${id(twoLines)} AND sku_id = 6`,
      `INSERT INTO ${t('order_items', twoLines)} VALUES (${id(twoLines)}, 6, 1, 6000)`,
    ],
  },
  {
    name: 'a hold of another user than its order is of',
    flaws: ['P3 user-differs'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET user_id = user_id + 1000000007 WHERE order_id = ${id(paid)}`,
      `UPDATE ${stock}.stock_holds SET user_id = user_id - 1000000007 WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'a price that the ledger did not say',
    flaws: ['P3 price-differs'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET unit_price_minor = unit_price_minor + 1 WHERE order_id = ${id(paid)}`,
      `UPDATE ${stock}.stock_holds SET unit_price_minor = unit_price_minor - 1 WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'a history that lacks a step',
    flaws: ['P3 history-differs'],
    sql: ({ t, id }) => [
      `UPDATE ${t('order_history', refunded)} SET version = 13 WHERE order_id = ${id(refunded)} AND version = 3`,
      `UPDATE ${t('order_history', refunded)} SET version = 3 WHERE order_id = ${id(refunded)} AND version = 13`,
    ],
  },
  {
    name: 'a transition that there is not',
    flaws: ['P3 history-differs'],
    sql: ({ t, id }) => [
      `UPDATE ${t('order_history', cancelled)} SET from_status = 4 WHERE order_id = ${id(cancelled)}`,
      `UPDATE ${t('order_history', cancelled)} SET from_status = 1 WHERE order_id = ${id(cancelled)}`,
    ],
  },
  {
    name: 'a watermark in the future, which no order can pass',
    flaws: ['P4 watermark-ahead'],
    sql: ({ stock }) => {
      const tenMinutes = '(600000 << 22)';
      const now = '((CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED) - 1735689600000) << 22)';
      return [
        `CREATE TABLE ${stock}.kept AS SELECT * FROM ${stock}.watermark;
         UPDATE ${stock}.watermark SET order_id = ${now} + ${tenMinutes}`,
        `UPDATE ${stock}.watermark SET order_id = (SELECT order_id FROM ${stock}.kept); DROP TABLE ${stock}.kept`,
      ];
    },
  },
  {
    name: 'a hold for an order that never came',
    flaws: ['P4 hold-without-order'],
    sql: ({ stock, id }) => [
      `INSERT INTO ${stock}.stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units, unit_price_minor, currency, state, create_time, update_time)
         SELECT ${id(5)} + 1, 2, user_id, 'x', fingerprint, 1, 2000, 'EUR', 1, create_time, update_time FROM ${stock}.stock_holds WHERE order_id = ${id(5)} LIMIT 1;
       UPDATE ${stock}.skus SET held = held + 1, available = available - 1 WHERE sku_id = 2`,
      `DELETE FROM ${stock}.stock_holds WHERE order_id = ${id(5)} + 1;
       UPDATE ${stock}.skus SET held = held - 1, available = available + 1 WHERE sku_id = 2`,
    ],
  },
  {
    name: 'a cancelled order that keeps its stock',
    flaws: ['P1 rows-differ-from-figures', 'P5 held-by-dead-order'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET state = 1 WHERE order_id = ${id(cancelled)}`,
      `UPDATE ${stock}.stock_holds SET state = 3 WHERE order_id = ${id(cancelled)}`,
    ],
  },
  {
    name: 'a fence that owns stock',
    flaws: ['P1 rows-differ-from-figures', 'P5 sold-to-dead-order'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET state = 2 WHERE order_id = ${id(fence)}`,
      `UPDATE ${stock}.stock_holds SET state = 3 WHERE order_id = ${id(fence)}`,
    ],
  },
  {
    name: 'a paid order whose stock was given back',
    flaws: ['P1 rows-differ-from-figures', 'P5 released-while-alive'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET state = 3 WHERE order_id = ${id(paid)}`,
      `UPDATE ${stock}.stock_holds SET state = 2 WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'stock that is sold before anybody paid',
    flaws: ['P1 rows-differ-from-figures', 'P5 sold-before-paid'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET state = 2 WHERE order_id = ${id(pending)}`,
      `UPDATE ${stock}.stock_holds SET state = 1 WHERE order_id = ${id(pending)}`,
    ],
  },
  {
    name: 'stock that was put back on sale without a word',
    flaws: ['P5 restocked-without-word'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET restock = 0 WHERE payment_id = ${1000 + restocked}`,
      `UPDATE ${payment}.refunds SET restock = 1 WHERE payment_id = ${1000 + restocked}`,
    ],
  },
  {
    name: 'an unpaid order that did not expire',
    flaws: ['P5 overdue'],
    sql: ({ t, id }) => [
      `UPDATE ${t('orders', pending)} SET expire_time = update_time WHERE order_id = ${id(pending)}`,
      `UPDATE ${t('orders', pending)} SET expire_time = UTC_TIMESTAMP(3) + INTERVAL 1 DAY WHERE order_id = ${id(pending)}`,
    ],
  },
  {
    name: 'two payments of one order',
    flaws: ['P6 paid-twice'],
    sql: ({ payment, id }) => [
      `INSERT INTO ${payment}.payments (payment_id, order_id, user_id, request_id, provider, provider_reference, status, settlement, amount_minor, currency, captured_minor, captured_currency, expire_time, create_time, update_time)
       SELECT 9000000, order_id, user_id, 'q', provider, 'x', status, settlement, amount_minor, currency, captured_minor, captured_currency, expire_time, create_time, update_time
       FROM ${payment}.payments WHERE order_id = ${id(paid)}`,
      `DELETE FROM ${payment}.payments WHERE payment_id = 9000000`,
    ],
  },
  {
    name: 'a paid order without its payment',
    flaws: ['P6 paid-without-payment'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET order_id = -order_id WHERE payment_id = ${1000 + paid}`,
      `UPDATE ${payment}.payments SET order_id = -order_id WHERE payment_id = ${1000 + paid}`,
    ],
  },
  {
    name: 'a payment for an order that never came',
    flaws: ['P6 payment-without-order'],
    sql: ({ payment, id }) => [
      `UPDATE ${payment}.payments SET order_id = ${id(fence)} WHERE payment_id = ${1000 + voided}`,
      `UPDATE ${payment}.payments SET order_id = ${id(voided)} WHERE payment_id = ${1000 + voided}`,
    ],
  },
  {
    name: 'a payment of another amount',
    flaws: ['P6 captured-differs'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET captured_minor = captured_minor - 1 WHERE payment_id = ${1000 + paid}`,
      `UPDATE ${payment}.payments SET captured_minor = captured_minor + 1 WHERE payment_id = ${1000 + paid}`,
    ],
  },
  {
    name: 'a payment of another price than its order has',
    flaws: ['P6 amount-differs'],
    sql: ({ payment }) => {
      const set = (by: string): string =>
        `UPDATE ${payment}.payments SET amount_minor = amount_minor ${by}, captured_minor = captured_minor ${by} WHERE payment_id = ${1000 + paid}`;
      return [set('+ 1'), set('- 1')];
    },
  },
  {
    name: 'a payment by another user',
    flaws: ['P6 payer-differs'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET user_id = -user_id WHERE payment_id = ${1000 + paid}`,
      `UPDATE ${payment}.payments SET user_id = -user_id WHERE payment_id = ${1000 + paid}`,
    ],
  },
  {
    name: 'money in a payment that was not paid',
    flaws: ['P6 settlement-differs'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET captured_minor = 1 WHERE payment_id = ${1000 + voided}`,
      `UPDATE ${payment}.payments SET captured_minor = NULL WHERE payment_id = ${1000 + voided}`,
    ],
  },
  {
    name: 'a payment that nobody asks about',
    flaws: ['P6 payment-stuck', 'P6 session-of-closed-order'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET status = 1, next_time = update_time WHERE payment_id = ${1000 + voided}`,
      `UPDATE ${payment}.payments SET status = 4, next_time = NULL WHERE payment_id = ${1000 + voided}`,
    ],
  },
  {
    name: 'an order that names another payment',
    flaws: ['P6 payment-differs', 'P7 warehouse-differs'],
    sql: ({ t, id }) => [
      `UPDATE ${t('orders', paid)} SET payment_id = 7 WHERE order_id = ${id(paid)}`,
      `UPDATE ${t('orders', paid)} SET payment_id = ${1000 + paid} WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'a late payment that is not refunded',
    flaws: ['P6 surplus-not-refunded-once'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET payment_id = -payment_id WHERE payment_id = ${1000 + late}`,
      `UPDATE ${payment}.refunds SET payment_id = -payment_id WHERE payment_id = ${-1000 - late}`,
    ],
  },
  {
    name: 'a late payment that is refunded twice',
    flaws: ['P6 refunded-too-much', 'P6 surplus-not-refunded-once'],
    sql: ({ payment }) => [
      `INSERT INTO ${payment}.refunds (refund_id, payment_id, request_id, amount_minor, currency, status, reason, restock, whole, told, create_time, update_time)
       SELECT 9000000, payment_id, 'op:z', amount_minor, currency, status, '', 0, 1, 2, create_time, update_time FROM ${payment}.refunds WHERE payment_id = ${1000 + late}`,
      `DELETE FROM ${payment}.refunds WHERE refund_id = 9000000`,
    ],
  },
  {
    name: 'a late payment of which a part was never asked back',
    flaws: ['P6 surplus-not-refunded-once'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET amount_minor = amount_minor - 1 WHERE payment_id = ${1000 + late}`,
      `UPDATE ${payment}.refunds SET amount_minor = amount_minor + 1 WHERE payment_id = ${1000 + late}`,
    ],
  },
  {
    name: 'a refused refund beside money that nobody ever asked back',
    flaws: ['P6 refund-failed', 'P6 surplus-not-refunded-once'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET amount_minor = amount_minor - 1, status = 4 WHERE payment_id = ${1000 + late}`,
      `UPDATE ${payment}.refunds SET amount_minor = amount_minor + 1, status = 3 WHERE payment_id = ${1000 + late}`,
    ],
  },
  {
    name: 'a refund in another currency than its payment',
    flaws: ['P6 refund-currency'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET currency = 'USD' WHERE payment_id = ${1000 + partly}`,
      `UPDATE ${payment}.refunds SET currency = 'EUR' WHERE payment_id = ${1000 + partly}`,
    ],
  },
  {
    name: 'a refund that order does not know',
    flaws: ['P6 refund-differs', 'P7 statistics-differ', 'P7 warehouse-differs'],
    sql: ({ t, id }) => [
      `UPDATE ${t('orders', partly)} SET refunded_minor = 0 WHERE order_id = ${id(partly)}`,
      `UPDATE ${t('orders', partly)} SET refunded_minor = 100 WHERE order_id = ${id(partly)}`,
    ],
  },
  {
    name: 'a refund that the provider refused, which an operator must see',
    flaws: ['P6 refund-failed'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET status = 4 WHERE payment_id = ${1000 + late}`,
      `UPDATE ${payment}.refunds SET status = 3 WHERE payment_id = ${1000 + late}`,
    ],
  },
  {
    name: 'a refund that nobody carries on with',
    flaws: ['P6 refund-stuck'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.refunds SET status = 2, next_time = update_time WHERE payment_id = ${1000 + late}`,
      `UPDATE ${payment}.refunds SET status = 3, next_time = NULL WHERE payment_id = ${1000 + late}`,
    ],
  },
  {
    name: 'a closed order whose page can still be paid',
    flaws: ['P6 session-of-closed-order'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET status = 1, next_time = UTC_TIMESTAMP(3) + INTERVAL 1 HOUR WHERE payment_id = ${1000 + voided}`,
      `UPDATE ${payment}.payments SET status = 4, next_time = NULL WHERE payment_id = ${1000 + voided}`,
    ],
  },
  {
    name: 'money that order was not told of',
    flaws: ['P6 payment-of-unpaid-order'],
    sql: ({ payment }) => [
      `UPDATE ${payment}.payments SET status = 2, settlement = 2, captured_minor = amount_minor, captured_currency = currency WHERE payment_id = ${1000 + voided}`,
      `UPDATE ${payment}.payments SET status = 4, settlement = 0, captured_minor = NULL, captured_currency = NULL WHERE payment_id = ${1000 + voided}`,
    ],
  },
  {
    name: 'an event that did not reach the ledger',
    flaws: ['P1 rows-differ-from-figures', 'P7 ledger-behind'],
    sql: ({ stock, id }) => [
      `UPDATE ${stock}.stock_holds SET state = 1 WHERE order_id = ${id(paid)}`,
      `UPDATE ${stock}.stock_holds SET state = 2 WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'an event that did not reach the statistics',
    flaws: ['P7 statistics-behind'],
    sql: ({ events, id }) => [
      `UPDATE ${events}.counted_orders SET version = version - 1 WHERE order_id = ${id(paid)}`,
      `UPDATE ${events}.counted_orders SET version = version + 1 WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'an event that was counted twice',
    flaws: ['P7 statistics-do-not-add-up'],
    sql: ({ events }) => [
      `UPDATE ${events}.user_statistics SET paid = paid + 1 ORDER BY user_id LIMIT 1`,
      `UPDATE ${events}.user_statistics SET paid = paid - 1 ORDER BY user_id LIMIT 1`,
    ],
  },
  {
    name: 'an event that did not reach the warehouse',
    flaws: ['P7 warehouse-behind'],
    sql: ({ warehouse, id }) => [
      `UPDATE ${warehouse}.order_line_facts SET order_id = -order_id WHERE order_id = ${id(cancelled)}`,
      `UPDATE ${warehouse}.order_line_facts SET order_id = -order_id WHERE order_id = -${id(cancelled)}`,
    ],
  },
  {
    name: 'a paid order without a confirmation',
    flaws: ['P7 mail-missing'],
    sql: ({ events, id }) => [
      `UPDATE ${events}.confirmation_mails SET order_id = -order_id WHERE order_id = ${id(paid)}`,
      `UPDATE ${events}.confirmation_mails SET order_id = -order_id WHERE order_id = -${id(paid)}`,
    ],
  },
  {
    name: 'a confirmation that was given up, which an operator must see',
    flaws: ['P7 mail-not-sent'],
    sql: ({ events, id }) => [
      `UPDATE ${events}.confirmation_mails SET sent_time = NULL WHERE order_id = ${id(paid)}`,
      `UPDATE ${events}.confirmation_mails SET sent_time = create_time WHERE order_id = ${id(paid)}`,
    ],
  },
  {
    name: 'an event that is not published',
    flaws: ['P7 outbox-late'],
    sql: ({ db }) => [
      `INSERT INTO ${db(paid)}.outbox (payload, create_time) VALUES ('', UTC_TIMESTAMP(3) - INTERVAL 1 HOUR)`,
      `DELETE FROM ${db(paid)}.outbox`,
    ],
  },
  {
    name: 'an event that was set aside, which an operator must see',
    flaws: ['P7 outbox-set-aside'],
    sql: ({ db }) => [
      `INSERT INTO ${db(paid)}.outbox_set_aside (outbox_id, payload, create_time, reason, set_aside_time)
         VALUES (1, '', UTC_TIMESTAMP(3), 'why', UTC_TIMESTAMP(3))`,
      `DELETE FROM ${db(paid)}.outbox_set_aside`,
    ],
  },
];
