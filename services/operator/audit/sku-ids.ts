import type { Stores } from '../stores.ts';

const skusAtOnce = 200;

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
