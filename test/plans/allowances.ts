/** A kind of statement that reads more rows than it names, and why that is bounded. */
interface Allowance {
  readonly pattern: RegExp;
  readonly rowsMax: number;
  readonly reason: string;
}

/** Rows of a page that goes through the holds by their primary key, whatever their state. */
const page = 20_000;
/** A statement of the audit's windows; a window that has more is read in smaller ones. */
const auditRows = 60_001;

export const allowances: readonly Allowance[] = [
  {
    pattern: /^SHOW SESSION VARIABLES/,
    rowsMax: 2_000,
    reason: 'settings, not rows of a table; when a connection is opened',
  },
  {
    pattern: /FROM information_schema\.statistics WHERE table_schema = .* AND index_name = /,
    rowsMax: 2_000,
    reason: 'the columns of an index, one row for each of a few hundred; once in an audit',
  },
  {
    pattern: /FROM stock_holds FORCE INDEX \(PRIMARY\) WHERE order_id > .* LIMIT 1 OFFSET 19999/,
    rowsMax: page,
    reason: 'finds the end of a page of the sweep or the second look at old holds',
  },
  {
    pattern:
      /^SELECT DISTINCT order_id FROM stock_holds FORCE INDEX \(PRIMARY\) WHERE .*order_id > \d+ AND order_id <= \d+/,
    rowsMax: 2 * page,
    reason: 'the orders of that page; rows are counted again while they are made distinct',
  },
  {
    pattern:
      /FROM stock_holds FORCE INDEX \(holds_by_buyer\) WHERE sku_id = .* ORDER BY user_id LIMIT 20000\) AS buyers/,
    rowsMax: 4 * page,
    reason: 'the ledger recounts 20,000 buyers of a SKU at a time; their sums are counted as well',
  },
  {
    pattern:
      /FROM stock_holds FORCE INDEX \(holds_by_buyer\) WHERE sku_id IN .* GROUP BY sku_id, user_id ORDER BY sku_id, user_id LIMIT 2000/,
    rowsMax: 8_000,
    reason: 'a gate is installed with 2,000 buyers at a time',
  },
  {
    pattern: /LIMIT 60001\) p JOIN refunds r/,
    rowsMax: 3 * auditRows,
    reason: 'the payments of a window of the audit, and their refunds',
  },
  {
    pattern:
      /^SELECT DISTINCT user_id FROM stock_holds FORCE INDEX \(holds_by_buyer\) WHERE sku_id = .* LIMIT 1000/,
    rowsMax: 4_000,
    reason: 'gate and ledger are compared for 1,000 users of a SKU at a time',
  },
  {
    pattern:
      /FROM (orders|order_items|order_history)_\d\d FORCE INDEX \(PRIMARY\) WHERE order_id > .* LIMIT 60001/,
    rowsMax: auditRows,
    reason: 'a window of the audit',
  },
  {
    pattern:
      /FROM (archived_orders|stock_holds|payments|counted_orders|confirmation_mails|order_line_facts)\b.* WHERE order_id > .* LIMIT 60001/,
    rowsMax: auditRows,
    reason: 'a window of the audit',
  },
  {
    pattern: /FROM stock_holds WHERE sku_id .*OFFSET 19999/,
    rowsMax: page,
    reason: 'finds the end of a page of the audit’s recount',
  },
  {
    pattern: /FROM stock_holds WHERE sku_id IN .*GROUP BY sku_id, (state|user_id HAVING)/,
    rowsMax: 3 * page,
    reason: 'a page of the audit’s recount; its sums are counted as well',
  },
  {
    pattern: /FROM user_statistics WHERE user_id > .* LIMIT 20000/,
    rowsMax: page,
    reason: 'a page of the audit’s comparison of statistics',
  },
  {
    pattern: /FROM counted_orders FORCE INDEX \(PRIMARY\) WHERE order_id > .* OFFSET 19999/,
    rowsMax: page,
    reason: 'finds the end of a page of counted orders',
  },
  {
    pattern: /FROM counted_orders FORCE INDEX \(PRIMARY\) WHERE order_id > .* GROUP BY user_id/,
    rowsMax: 3 * page,
    reason: 'a page of counted orders; its sums are counted as well',
  },
  {
    pattern: /FROM outbox WHERE id > .* LIMIT 5000\) page/,
    rowsMax: 10_000,
    reason: 'a page of the outbox, which is empty in a healthy system',
  },
];
