import type { Sku } from '../../gen/sluice/stock/v1/sku.ts';
import type { SkuRow } from './ledger-skus.ts';

/** A SKU's row as the contract shows it. */
export function skuMessage(sku: SkuRow): Sku {
  const { skuId, title, openTime, closeTime, limitPerUser, paused, settingsVersion } = sku;
  const { supplied, available, held, sold, epoch, createTime, updateTime } = sku;
  const unitPrice = { currencyCode: sku.currency, minorUnits: sku.unitPriceMinor };
  return {
    ...{ skuId, title, unitPrice, openTime, closeTime, limitPerUser, paused, settingsVersion },
    ...{ supplied, available, held, sold, epoch, createTime, updateTime },
  };
}
