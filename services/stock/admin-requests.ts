import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type {
  AdjustStockRequest,
  CreateSkuRequest,
  UpdateSkuRequest,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { invalidRequest } from '../runtime/refusals.ts';
import type { NewSku, SkuChanges } from './ledger-admin.ts';
import { RequestFields } from './request-fields.ts';

const priceMax = 10n ** 12n;
const unitsMax = 10n ** 9n;
const limitMax = 1_000_000;

/** Checks a SKU to create. @throws Refusal INVALID_REQUEST naming every field at fault */
export function newSkuOf(request: CreateSkuRequest): NewSku {
  const { skuId, title, unitPrice, supplied, openTime, closeTime, limitPerUser, paused } = request;
  const fields = new RequestFields();
  fields.id('sku_id', skuId);
  fields.title('title', title);
  if (unitPrice === undefined) fields.add('unit_price', 'is missing');
  else checkPrice(fields, unitPrice);
  fields.integer('supplied', supplied, 0n, unitsMax);
  fields.integer('limit_per_user', limitPerUser, 0, limitMax);
  checkTimes(fields, openTime, closeTime);
  throwIfWrong(fields);
  const { currencyCode: currency, minorUnits: unitPriceMinor } = unitPrice as Money;
  const settings = { title, currency, unitPriceMinor, openTime, closeTime, limitPerUser, paused };
  return { skuId, supplied, ...settings };
}

/** Checks changes of a SKU. @throws Refusal INVALID_REQUEST naming every field at fault */
export function skuChangesOf(request: UpdateSkuRequest): SkuChanges {
  const { skuId, title, unitPrice, openTime, closeTime, limitPerUser, paused } = request;
  const fields = new RequestFields();
  fields.id('sku_id', skuId);
  if (title !== undefined) fields.title('title', title);
  if (unitPrice) checkPrice(fields, unitPrice);
  if (limitPerUser !== undefined) fields.integer('limit_per_user', limitPerUser, 0, limitMax);
  checkTimes(fields, openTime, closeTime);
  if (openTime && request.clearOpenTime) {
    fields.add('clear_open_time', 'cannot go together with open_time');
  }
  if (closeTime && request.clearCloseTime) {
    fields.add('clear_close_time', 'cannot go together with close_time');
  }
  throwIfWrong(fields);
  const opening = request.clearOpenTime ? null : openTime;
  const closing = request.clearCloseTime ? null : closeTime;
  return {
    ...(title === undefined ? {} : { title }),
    ...(unitPrice
      ? { currency: unitPrice.currencyCode, unitPriceMinor: unitPrice.minorUnits }
      : {}),
    ...(opening === undefined ? {} : { openTime: opening }),
    ...(closing === undefined ? {} : { closeTime: closing }),
    ...(limitPerUser === undefined ? {} : { limitPerUser }),
    ...(paused === undefined ? {} : { paused }),
  };
}

/** Checks an adjustment. @throws Refusal INVALID_REQUEST naming every field at fault */
export function checkAdjustment({ skuId, delta, requestId }: AdjustStockRequest): void {
  const fields = new RequestFields();
  fields.id('sku_id', skuId);
  if (delta === 0n) fields.add('delta', 'must not be 0');
  fields.integer('delta', delta, -unitsMax, unitsMax);
  fields.requestId('request_id', requestId);
  throwIfWrong(fields);
}

/** Checks a SKU's id alone. @throws Refusal INVALID_REQUEST */
export function checkSkuId(skuId: bigint): void {
  const fields = new RequestFields();
  fields.id('sku_id', skuId);
  throwIfWrong(fields);
}

function checkPrice(fields: RequestFields, { currencyCode, minorUnits }: Money): void {
  fields.currency('unit_price.currency_code', currencyCode);
  fields.integer('unit_price.minor_units', minorUnits, 0n, priceMax);
}

function checkTimes(fields: RequestFields, open: Date | undefined, close: Date | undefined): void {
  if (open) fields.time('open_time', open);
  if (close) fields.time('close_time', close);
  if (open && close && close.getTime() <= open.getTime()) {
    fields.add('close_time', 'must be after open_time');
  }
}

function throwIfWrong({ violations }: RequestFields): void {
  if (violations.length > 0) throw invalidRequest(violations);
}
