import { type Database, type Row, type Stores, tableSuffixes } from '../stores.ts';
import { OrderPicture } from './order-picture.ts';
import {
  archivedRows,
  countedRows,
  factRows,
  holdRows,
  itemRows,
  mailRows,
  orderRows,
  paymentRows,
  type RowSort,
  refundRows,
  transitionRows,
} from './row-sorts.ts';

/** Rows of one statement at most; a range that has more is read in smaller pieces. */
export const rowsMax = 60_000;

/** Which orders to read: those behind `after` up to `until`, or the named ones. */
export type Selection =
  | { readonly after: bigint; readonly until: bigint }
  | { readonly orderIds: readonly string[] };

/** A range held more rows than one statement should answer. */
export class TooManyRows extends Error {}

interface Source {
  readonly database: Database;
  readonly sort: RowSort;
  /** The statement's parts: one SELECT per table, for a condition on the order's id and a limit of rows. */
  readonly selects: readonly {
    readonly place: string;
    sql(condition: string, limit: string): string;
  }[];
}

/** Reads what every store says of some orders. @throws CouldNotLook; TooManyRows */
export async function readPictures(
  stores: Stores,
  selection: Selection,
): Promise<Map<string, OrderPicture>> {
  const pictures = new Map<string, OrderPicture>();
  if ('orderIds' in selection && selection.orderIds.length === 0) return pictures;
  const sources = sourcesOf(stores);
  // Rows of a result are added as it arrives, so that no two results are in memory for long.
  await Promise.all(
    sources.map(async (source) => {
      const rows = await source.database.rows(statementOf(source, selection));
      if (rows.length > rowsMax && isDivisible(selection)) throw new TooManyRows();
      addAll(pictures, source, rows);
    }),
  );
  for (const picture of pictures.values()) arrange(picture);
  return pictures;
}

function sourcesOf(stores: Stores): Source[] {
  const { stock, payment, events, warehouse } = stores;
  return [
    ...stores.orders.flatMap((database, index) => [
      numbered(stores, database, index, 'orders_', orderRows),
      numbered(stores, database, index, 'order_items_', itemRows),
      numbered(stores, database, index, 'order_history_', transitionRows),
      single(database, 'archived_orders', archivedRows, `${index}/archive`),
    ]),
    single(stock, 'stock_holds FORCE INDEX (PRIMARY)', holdRows),
    single(payment, 'payments FORCE INDEX (order_request)', paymentRows),
    { database: payment, sort: refundRows, selects: [{ place: '', sql: refundsOf }] },
    single(events, 'counted_orders', countedRows),
    single(events, 'confirmation_mails', mailRows),
    single(warehouse, 'order_line_facts', factRows),
  ];
}

function numbered(
  stores: Stores,
  database: Database,
  index: number,
  table: string,
  sort: RowSort,
): Source {
  const selects = tableSuffixes(stores).map((suffix, at) => ({
    place: `${index}/${suffix}`,
    sql: (condition: string) =>
      `SELECT order_id, ${sort.columns}, ${at} FROM ${table}${suffix} FORCE INDEX (PRIMARY) WHERE ${condition}`,
  }));
  return { database, sort, selects };
}

function single(database: Database, table: string, sort: RowSort, place = ''): Source {
  const sql = (condition: string): string =>
    `SELECT order_id, ${sort.columns}, 0 FROM ${table} WHERE ${condition}`;
  return { database, sort, selects: [{ place, sql }] };
}

/**
 * From the payments of the range to their refunds: the other way would read all refunds each time. As many payments as the
 * statement for payments reads, which tells if there are more.
 */
function refundsOf(condition: string, limit: string): string {
  return `SELECT STRAIGHT_JOIN p.order_id, ${refundRows.columns}, 0
    FROM (SELECT order_id, payment_id FROM payments FORCE INDEX (order_request) WHERE ${condition}${limit}) p
    JOIN refunds r ON r.payment_id = p.payment_id`;
}

function statementOf({ selects }: Source, selection: Selection): string {
  const condition =
    'orderIds' in selection
      ? `order_id IN (${selection.orderIds.join(',')})`
      : `order_id > ${selection.after} AND order_id <= ${selection.until}`;
  const limit = isDivisible(selection) ? ` LIMIT ${rowsMax + 1}` : '';
  return selects.map(({ sql }) => sql(condition, limit)).join(' UNION ALL ') + limit;
}

/** A single id cannot be read in smaller pieces. */
function isDivisible(selection: Selection): boolean {
  return 'after' in selection && selection.until - selection.after > 1n;
}

function addAll(
  pictures: Map<string, OrderPicture>,
  { sort, selects }: Source,
  rows: readonly Row[],
): void {
  for (const row of rows) {
    const orderId = String(row[0]);
    let picture = pictures.get(orderId);
    if (picture === undefined) {
      picture = new OrderPicture(orderId);
      pictures.set(orderId, picture);
    }
    const select = selects[Number(row[row.length - 1])] as Source['selects'][number];
    sort.add(picture, row, select.place);
  }
}

/** Results come in any order; two looks at one order must be comparable. */
function arrange(picture: OrderPicture): void {
  const byId = (a: string, b: string): number =>
    a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
  if (picture.orders.length > 1) {
    picture.orders.sort(
      (a, b) => Number(a.archived) - Number(b.archived) || byId(a.place, b.place),
    );
  }
  if (picture.items.length > 1) picture.items.sort((a, b) => byId(a.skuId, b.skuId));
  if (picture.holds.length > 1) picture.holds.sort((a, b) => byId(a.skuId, b.skuId));
  if (picture.facts.length > 1) picture.facts.sort((a, b) => byId(a.skuId, b.skuId));
  if (picture.history.length > 1) picture.history.sort((a, b) => a.version - b.version);
  if (picture.payments.length > 1) picture.payments.sort((a, b) => byId(a.paymentId, b.paymentId));
  if (picture.refunds.length > 1) picture.refunds.sort((a, b) => byId(a.refundId, b.refundId));
}
