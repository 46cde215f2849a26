import { type Stores, tableSuffixes } from '../stores.ts';
import type { OrderPicture } from './order-picture.ts';
import { readPictures, TooManyRows } from './read-pictures.ts';

/** Orders of one window, about: enough that statements cost little, few enough for the memory. */
const ordersWanted = 4_000;
/** One second of ids; how far the first window reaches. */
const firstWidth = 1_000n << 22n;
const growthMax = 16;

export interface Window {
  readonly pictures: ReadonlyMap<string, OrderPicture>;
  /** The last id that was read. */
  readonly until: bigint;
}

/**
 * Reads all stores side by side, a window of order ids at a time, ascending. Ids tell the time, so a window holds the
 * same orders in every store. The next window is read while the caller looks at this one. @throws CouldNotLook
 */
export async function* readWindows(
  stores: Stores,
  { after, until }: { after: bigint; until: bigint },
): AsyncGenerator<Window> {
  let reading = readNext(stores, after, until, firstWidth);
  for (;;) {
    const window = await reading;
    if (window === undefined) return;
    const width = nextWidth(window.width, window.pictures.size);
    reading = readNext(stores, window.until, until, width);
    // Should the caller stop here, nobody waits for the next one.
    reading.catch(() => undefined);
    yield window;
  }
}

async function readNext(
  stores: Stores,
  after: bigint,
  until: bigint,
  wantedWidth: bigint,
): Promise<(Window & { width: bigint }) | undefined> {
  let from = after;
  for (let width = wantedWidth; from < until; ) {
    const end = from + width < until ? from + width : until;
    try {
      const pictures = await readPictures(stores, { after: from, until: end });
      if (pictures.size > 0) return { pictures, until: end, width };
    } catch (error) {
      if (!(error instanceof TooManyRows)) throw error;
      width = (width + 1n) / 2n;
      continue;
    }
    const first = await firstBehind(stores, end);
    if (first === undefined || first > until) return undefined;
    from = first - 1n;
  }
  return undefined;
}

function nextWidth(width: bigint, orders: number): bigint {
  const factor = Math.min(growthMax, Math.max(1 / growthMax, ordersWanted / Math.max(1, orders)));
  const scaled = (width * BigInt(Math.round(factor * 1_000))) / 1_000n;
  return scaled > 0n ? scaled : 1n;
}

/** The smallest order id behind `after` in any table; windows jump over times without orders. */
async function firstBehind(stores: Stores, after: bigint): Promise<bigint | undefined> {
  const least = (tables: readonly string[]): string =>
    tables
      .map((table) => `SELECT MIN(order_id) FROM ${table} WHERE order_id > ${after}`)
      .join(' UNION ALL ');
  const numbered = tableSuffixes(stores).flatMap((suffix) => [
    `orders_${suffix}`,
    `order_items_${suffix}`,
    `order_history_${suffix}`,
  ]);
  const rows = await Promise.all([
    ...stores.orders.map((database) => database.rows(least([...numbered, 'archived_orders']))),
    stores.stock.rows(least(['stock_holds'])),
    stores.payment.rows(least(['payments'])),
    stores.events.rows(least(['counted_orders', 'confirmation_mails'])),
    stores.warehouse.rows(least(['order_line_facts'])),
  ]);
  let first: bigint | undefined;
  for (const [value] of rows.flat()) {
    if (value === null || value === undefined) continue;
    const id = BigInt(value as string);
    if (first === undefined || id < first) first = id;
  }
  return first;
}
