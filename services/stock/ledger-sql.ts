import type { PoolConnection, ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import { literal } from '../runtime/mysql.ts';
import type { HoldState } from './hold-states.ts';

/** Rows named in one statement at most; longer lists go in several. */
const rowsMax = 1_000;

/** Text that needs no escaping in any SQL mode. */
const plainText = /^[\w .:/@+-]*$/;

/** ASCII text as a literal: as it is where that is harmless, else in hexadecimal. */
function textLiteral(text: string): string {
  return plainText.test(text) ? `'${text}'` : hexLiteral(Buffer.from(text, 'latin1'));
}

/** Bytes as a literal; with text and numbers all that the ledger's hand-written batches contain. */
function hexLiteral(bytes: Uint8Array): string {
  return `x'${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')}'`;
}

/** Ascending ids without repetitions: everybody locks in the same order. */
export function ascending(ids: Iterable<bigint>): bigint[] {
  return [...new Set(ids)].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** A SKU row that this transaction has locked. */
export interface LockedSku {
  readonly skuId: bigint;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly available: bigint;
  readonly epoch: bigint;
}

/**
 * Locks SKU rows in ascending order, waiting for those that others have locked. For ascending ids, at
 * least one.
 */
export function lockSkusSql(ids: readonly bigint[]): string {
  // The index is forced: a scan of a small table would lock rows that we do not name.
  return `SELECT sku_id, unit_price_minor, currency, available, epoch FROM skus FORCE INDEX (PRIMARY)
     WHERE sku_id IN (${ids.join(',')}) ORDER BY sku_id FOR UPDATE`;
}

/** What `lockSkusSql` read. */
export function lockedSkus(rows: readonly RowDataPacket[]): Map<bigint, LockedSku> {
  const locked = new Map<bigint, LockedSku>();
  for (const row of rows) {
    const skuId = BigInt(row.sku_id);
    locked.set(skuId, {
      skuId,
      unitPriceMinor: BigInt(row.unit_price_minor),
      currency: row.currency,
      available: BigInt(row.available),
      epoch: BigInt(row.epoch),
    });
  }
  return locked;
}

/** A hold's row. */
export interface HoldRow {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly units: number;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly state: HoldState;
}

/**
 * The statements that read all holds of some orders, their rows locked in their key's order if that is
 * asked for. What is not locked is current only for SKUs whose rows the transaction has locked, and so
 * is what is missing.
 */
export function readHoldsSql(orderIds: readonly bigint[], { lock = false } = {}): string[] {
  return chunksOf(orderIds).map(
    (ids) =>
      `SELECT order_id, sku_id, user_id, request_id, units, unit_price_minor, currency, state
       FROM stock_holds FORCE INDEX (PRIMARY) WHERE order_id IN (${ids.join(',')})
       ORDER BY order_id, sku_id${lock ? ' FOR UPDATE' : ''}`,
  );
}

/** What the statements of `readHoldsSql` read. */
export function holdsByOrder(read: readonly (readonly RowDataPacket[])[]): Map<bigint, HoldRow[]> {
  const holds = new Map<bigint, HoldRow[]>();
  for (const row of read.flat()) {
    const hold = holdOf(row);
    const known = holds.get(hold.orderId);
    if (known) known.push(hold);
    else holds.set(hold.orderId, [hold]);
  }
  return holds;
}

function holdOf(row: RowDataPacket): HoldRow {
  return {
    orderId: BigInt(row.order_id),
    skuId: BigInt(row.sku_id),
    userId: BigInt(row.user_id),
    requestId: (row.request_id as Buffer).toString('latin1'),
    units: row.units,
    unitPriceMinor: BigInt(row.unit_price_minor),
    currency: row.currency,
    state: row.state,
  };
}

/** A hold to insert. */
export interface NewHold {
  readonly orderId: bigint;
  readonly skuId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly fingerprint: Uint8Array;
  readonly units: number;
  readonly unitPriceMinor: bigint;
  readonly currency: string;
  readonly state: HoldState;
}

/** Statements that insert holds in their key's order, so that two batches never wait for each other in a circle. */
export function insertHoldsSql(holds: readonly NewHold[]): string[] {
  const sorted = [...holds].sort(
    (a, b) => compare(a.orderId, b.orderId) || compare(a.skuId, b.skuId),
  );
  return chunksOf(sorted).map(
    (chunk) =>
      `INSERT INTO stock_holds (order_id, sku_id, user_id, request_id, fingerprint, units,
       unit_price_minor, currency, state) VALUES ${chunk.map(valuesOf).join(',')}`,
  );
}

function valuesOf(hold: NewHold): string {
  const { orderId, skuId, userId, requestId, fingerprint, units } = hold;
  const key = `${orderId},${skuId},${userId},${textLiteral(requestId)},${hexLiteral(fingerprint)}`;
  return `(${key},${units},${hold.unitPriceMinor},${textLiteral(hold.currency)},${hold.state})`;
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Statements that add changes to SKU figures: one for all SKUs, none for no change. */
export function addToFiguresSql(
  changes: ReadonlyMap<bigint, { available: bigint; held: bigint; sold: bigint }>,
): string[] {
  if (changes.size === 0) return [];
  const cases = (figure: 'available' | 'held' | 'sold'): string => {
    const branches = [...changes].map(([id, change]) => `WHEN ${id} THEN ${change[figure]}`);
    return `${figure} = ${figure} + CASE sku_id ${branches.join(' ')} END`;
  };
  return [
    `UPDATE skus FORCE INDEX (PRIMARY)
     SET ${cases('available')}, ${cases('held')}, ${cases('sold')}
     WHERE sku_id IN (${[...changes.keys()].join(',')})`,
  ];
}

/** Lists that one statement may name. */
export function chunksOf<Item>(items: readonly Item[]): Item[][] {
  const chunks: Item[][] = [];
  for (let from = 0; from < items.length; from += rowsMax) {
    chunks.push(items.slice(from, from + rowsMax));
  }
  return chunks;
}

/** Carries statements out in one round trip; the server stops at the first that fails. */
export async function runTogether(
  connection: PoolConnection,
  statements: readonly string[],
): Promise<(RowDataPacket[] | ResultSetHeader)[]> {
  if (statements.length === 0) return [];
  const [results] = await connection.query<RowDataPacket[][]>(literal(statements.join(';')));
  // The driver wraps the results only where there are several.
  return statements.length === 1 ? [results as unknown as ResultSetHeader] : results;
}
