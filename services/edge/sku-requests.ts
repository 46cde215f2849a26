import type {
  AdjustStockRequest,
  CreateSkuRequest,
  UpdateSkuRequest,
} from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { type FieldViolation, invalidRequest } from '../runtime/refusals.ts';
import { readRequestId } from './create-order-request.ts';
import { JsonFields, JsonNames } from './json-fields.ts';

// Only the types are checked here; the bounds belong to stock, which answers with the same field names.

const settings = ['title', 'unitPrice', 'openTime', 'closeTime', 'limitPerUser', 'paused'];
const createNames = new JsonNames('skuId', 'supplied', ...settings);
const updateNames = new JsonNames('clearOpenTime', 'clearCloseTime', ...settings);
const adjustNames = new JsonNames('delta');

/** @throws Refusal INVALID_REQUEST naming every field at fault */
export function readCreateSkuRequest(body: unknown): CreateSkuRequest {
  return read(body, createNames, (fields) => ({
    skuId: fields.int64('skuId'),
    title: fields.string('title'),
    unitPrice: fields.money('unitPrice'),
    supplied: fields.int64('supplied'),
    openTime: fields.timestamp('openTime'),
    closeTime: fields.timestamp('closeTime'),
    limitPerUser: fields.int32('limitPerUser'),
    paused: fields.boolean('paused'),
  }));
}

/** @throws Refusal INVALID_REQUEST naming every field at fault */
export function readUpdateSkuRequest(skuId: bigint, body: unknown): UpdateSkuRequest {
  return read(body, updateNames, (fields) => ({
    skuId,
    title: fields.has('title') ? fields.string('title') : undefined,
    unitPrice: fields.money('unitPrice'),
    openTime: fields.timestamp('openTime'),
    closeTime: fields.timestamp('closeTime'),
    limitPerUser: fields.has('limitPerUser') ? fields.int32('limitPerUser') : undefined,
    paused: fields.has('paused') ? fields.boolean('paused') : undefined,
    clearOpenTime: fields.boolean('clearOpenTime'),
    clearCloseTime: fields.boolean('clearCloseTime'),
  }));
}

/** @throws Refusal INVALID_REQUEST naming every field at fault */
export function readAdjustStockRequest(
  skuId: bigint,
  idempotencyKey: string | string[] | undefined,
  body: unknown,
): AdjustStockRequest {
  return read(body, adjustNames, (fields, violations) => ({
    skuId,
    delta: fields.int64('delta'),
    requestId: readRequestId(idempotencyKey, violations),
  }));
}

function read<Message>(
  body: unknown,
  names: JsonNames,
  fill: (fields: JsonFields, violations: FieldViolation[]) => Message,
): Message {
  const violations: FieldViolation[] = [];
  const message = fill(new JsonFields(body, names, violations), violations);
  if (violations.length > 0) throw invalidRequest(violations);
  return message;
}
