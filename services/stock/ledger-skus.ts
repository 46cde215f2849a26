import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import { type Pool, query } from '../runtime/mysql.ts';
import type { GateSettings } from './gate.ts';

/** A SKU as the ledger has it. */
export interface SkuRow {
  readonly skuId: bigint;
  readonly title: string;
  readonly currency: string;
  readonly unitPriceMinor: bigint;
  readonly openTime: Date | undefined;
  readonly closeTime: Date | undefined;
  readonly limitPerUser: number;
  readonly paused: boolean;
  readonly settingsVersion: bigint;
  readonly supplied: bigint;
  readonly available: bigint;
  readonly held: bigint;
  readonly sold: bigint;
  readonly epoch: bigint;
  readonly creationDigest: Buffer;
  readonly createTime: Date;
  readonly updateTime: Date;
}

/** Reads some SKUs, in no particular order; those that do not exist are missing. */
export async function readSkus(
  pool: Pool,
  skuIds: readonly bigint[],
  deadline: Deadline,
): Promise<SkuRow[]> {
  if (skuIds.length === 0) return [];
  const sql = 'SELECT * FROM skus WHERE sku_id IN (?)';
  return (await query<RowDataPacket[]>(pool, sql, [skuIds], { deadline })).map(skuOf);
}

/** Reads a page of SKUs by ascending id, beginning behind `after`. */
export async function listSkus(
  pool: Pool,
  { after, max }: { after: bigint; max: number },
  deadline: Deadline,
): Promise<SkuRow[]> {
  const sql = 'SELECT * FROM skus WHERE sku_id > ? ORDER BY sku_id LIMIT ?';
  return (await query<RowDataPacket[]>(pool, sql, [after, max], { deadline })).map(skuOf);
}

/** Rows that a look for SKUs on sale reads at most: sales that are over stay in the table for good. */
const onSaleRowsMax = 2_000;

/** SKUs on sale, `max` at most, and behind which to go on looking; undefined if there are no more. */
export interface SkusOnSale {
  readonly skuIds: readonly bigint[];
  readonly last: bigint | undefined;
}

/** SKUs that are not paused and whose window is open, or will be by then; a page by ascending id. */
export async function skusOnSale(
  pool: Pool,
  page: { after: bigint; max: number; openBefore: Date; closeAfter: Date },
  deadline: Deadline,
): Promise<SkusOnSale> {
  const rows = await query<RowDataPacket[]>(
    pool,
    `SELECT sku_id, paused = 0 AND (open_time IS NULL OR open_time <= ?)
       AND (close_time IS NULL OR close_time > ?) AS on_sale
     FROM skus WHERE sku_id > ? ORDER BY sku_id LIMIT ${onSaleRowsMax}`,
    [page.openBefore, page.closeAfter, page.after],
    { deadline },
  );
  const skuIds: bigint[] = [];
  for (const row of rows) {
    if (Number(row.on_sale) !== 1) continue;
    skuIds.push(BigInt(row.sku_id));
    if (skuIds.length === page.max) return { skuIds, last: skuIds.at(-1) };
  }
  const last = rows.length === onSaleRowsMax ? BigInt(rows.at(-1)?.sku_id) : undefined;
  return { skuIds, last };
}

/** The ledger's clock, in ms since 1970. */
export async function readDatabaseTimeMs(pool: Pool, deadline: Deadline): Promise<number> {
  const sql = 'SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) AS now_ms';
  const rows = await query<RowDataPacket[]>(pool, sql, [], { deadline });
  return Number(rows[0]?.now_ms);
}

/** The settings that a gate keeps of a SKU. */
export function gateSettings(sku: SkuRow): GateSettings {
  return {
    version: sku.settingsVersion,
    openMs: sku.openTime?.getTime(),
    closeMs: sku.closeTime?.getTime(),
    limitPerUser: sku.limitPerUser,
    paused: sku.paused,
    priceMinor: sku.unitPriceMinor,
    currency: sku.currency,
  };
}

/** A row of `skus` as the driver gives it. */
export function skuOf(row: RowDataPacket): SkuRow {
  return {
    skuId: BigInt(row.sku_id),
    title: row.title,
    currency: row.currency,
    unitPriceMinor: BigInt(row.unit_price_minor),
    openTime: row.open_time ?? undefined,
    closeTime: row.close_time ?? undefined,
    limitPerUser: row.limit_per_user,
    paused: row.paused === 1,
    settingsVersion: BigInt(row.settings_version),
    supplied: BigInt(row.supplied),
    available: BigInt(row.available),
    held: BigInt(row.held),
    sold: BigInt(row.sold),
    epoch: BigInt(row.epoch),
    creationDigest: row.creation_digest,
    createTime: row.create_time,
    updateTime: row.update_time,
  };
}
