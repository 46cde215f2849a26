import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type { Sku } from '../../gen/sluice/stock/v1/sku.ts';
import type {
  AdjustStockResponse,
  GetStockLayersResponse,
  RebuildStockResponse,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import type { DisplayStock, ListSkusResponse } from '../../gen/sluice/stock/v1/stock_service.ts';

// The proto3 JSON mapping with default values written out and every int64 as a string.

/** An amount; an absent one is null, so that a reader need not ask whether the field is there. */
export function moneyJson(money: Money | undefined): string {
  if (!money) return 'null';
  return `{"currencyCode":${JSON.stringify(money.currencyCode)},"minorUnits":"${money.minorUnits}"}`;
}

/** `,"name":"<RFC 3339>"`; null where the time is absent. */
export function timestampField(name: string, time: Date | undefined): string {
  return `,"${name}":${time ? `"${rfc3339(time)}"` : 'null'}`;
}

interface Rfc3339 {
  ms: number;
  text: string;
}

/** The orders of a batch share their times, so the last two texts serve nearly all of them. */
const remembered: [Rfc3339, Rfc3339] = [
  { ms: Number.NaN, text: '' },
  { ms: Number.NaN, text: '' },
];
let oldest: 0 | 1 = 0;

function rfc3339(time: Date): string {
  const ms = time.getTime();
  if (remembered[0].ms === ms) return remembered[0].text;
  if (remembered[1].ms === ms) return remembered[1].text;
  const slot = remembered[oldest];
  oldest = oldest === 0 ? 1 : 0;
  slot.ms = ms;
  slot.text = time.toISOString();
  return slot.text;
}

export function skuJson(sku: Sku): string {
  return (
    `{"skuId":"${sku.skuId}","title":${JSON.stringify(sku.title)},"unitPrice":${moneyJson(sku.unitPrice)}` +
    `${timestampField('openTime', sku.openTime)}${timestampField('closeTime', sku.closeTime)}` +
    `,"limitPerUser":${sku.limitPerUser},"paused":${sku.paused},"settingsVersion":"${sku.settingsVersion}"` +
    `,"supplied":"${sku.supplied}","available":"${sku.available}","held":"${sku.held}","sold":"${sku.sold}"` +
    `,"epoch":"${sku.epoch}"${timestampField('createTime', sku.createTime)}` +
    `${timestampField('updateTime', sku.updateTime)}}`
  );
}

export function skuPageJson(page: ListSkusResponse): string {
  const list = page.skus.map(skuJson).join(',');
  const token = JSON.stringify(page.nextPageToken);
  return `{"skus":[${list}],"nextPageToken":${token}${timestampField('serverTime', page.serverTime)}}`;
}

export function displayStockJson(stocks: readonly DisplayStock[]): string {
  const list = stocks.map(
    (stock) =>
      `{"skuId":"${stock.skuId}","loaded":${stock.loaded},"available":"${stock.available}",` +
      `"paused":${stock.paused}}`,
  );
  return `{"stocks":[${list.join(',')}]}`;
}

export function stockLayersJson({ gate, ledger }: GetStockLayersResponse): string {
  const gateJson = gate
    ? `{"loaded":${gate.loaded},"available":"${gate.available}","pendingOrders":"${gate.pendingOrders}",` +
      `"oldestPendingAgeMs":"${gate.oldestPendingAgeMs}","epoch":"${gate.epoch}","buyers":"${gate.buyers}",` +
      `"state":${JSON.stringify(gate.state)}}`
    : 'null';
  return `{"gate":${gateJson},"ledger":${ledger ? skuJson(ledger) : 'null'}}`;
}

export function adjustmentJson({ sku, replayed }: AdjustStockResponse): string {
  return `{"sku":${sku ? skuJson(sku) : 'null'},"replayed":${replayed}}`;
}

export function rebuiltJson({ epoch, available }: RebuildStockResponse): string {
  return `{"epoch":"${epoch}","available":"${available}"}`;
}
