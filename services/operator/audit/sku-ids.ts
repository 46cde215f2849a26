import { CouldNotLook } from '../could-not-look.ts';
import type { Stores } from '../stores.ts';

/** Fewer than 200: for longer lists the servers guess by averages, and read all holds for SKUs that have none. */
const skusAtOnce = 100;

/** A slip in an id must not be answered with "clean". @throws CouldNotLook if the ledger lacks one of these SKUs */
export async function requireSkus({ stock }: Stores, skuIds: readonly string[]): Promise<void> {
  const rows = await stock.rows(`SELECT sku_id FROM skus WHERE sku_id IN (${skuIds.join(',')})`);
  const known = new Set(rows.map(([skuId]) => String(skuId)));
  const unknown = skuIds.filter((skuId) => !known.has(skuId));
  if (unknown.length > 0) throw new CouldNotLook(`The ledger has no SKU ${unknown.join(', ')}.`);
}

/** All SKUs of the ledger in chunks, ascending; or those of them that are named. @throws CouldNotLook */
export async function* readSkuIds(
  { stock }: Stores,
  only: readonly string[] | undefined,
): AsyncGenerator<string[]> {
  const chosen = only === undefined ? '' : ` AND sku_id IN (${only.join(',')})`;
  for (let after = '0'; ; ) {
    const rows = await stock.rows(
      `SELECT sku_id FROM skus WHERE sku_id > ${after}${chosen} ORDER BY sku_id LIMIT ${skusAtOnce}`,
    );
    if (rows.length === 0) return;
    const skuIds = rows.map(([skuId]) => String(skuId));
    after = skuIds.at(-1) as string;
    yield skuIds;
  }
}
