import type { StockReservation } from '../../gen/sluice/stock/v1/stock_service.ts';
import { RequestFields } from './request-fields.ts';

/** Reservations in one call at most. */
export const reservationsMax = 500;
const linesMax = 20;
/** 20 lines of 1,000 units, merged. */
const unitsMax = 20_000;
const fingerprintBytes = 16;

/**
 * What is wrong with one reservation, as one sentence; undefined if nothing is. The order service
 * has validated before, so this is made to cost little when all is well.
 */
export function reservationFault(reservation: StockReservation): string | undefined {
  const { orderId, userId, fingerprint, lines } = reservation;
  const fields = new RequestFields();
  fields.id('order_id', orderId);
  fields.id('user_id', userId);
  fields.requestId('request_id', reservation.requestId);
  if (fingerprint.length !== fingerprintBytes) fields.add('fingerprint', 'must be 16 bytes');
  if (lines.length < 1 || lines.length > linesMax) fields.add('lines', 'must be 1 to 20');
  else checkLines(fields, reservation);
  if (fields.violations.length === 0) return undefined;
  return fields.violations.map(({ field, description }) => `${field}: ${description}`).join('; ');
}

function checkLines(fields: RequestFields, { lines }: StockReservation): void {
  let before = 0n;
  for (const [index, { skuId, quantity }] of lines.entries()) {
    if (skuId <= 0n) fields.id(`lines[${index}].sku_id`, skuId);
    else if (skuId <= before) {
      fields.add(`lines[${index}].sku_id`, 'must be greater than the one before');
    }
    if (!(quantity >= 1 && quantity <= unitsMax)) {
      fields.integer(`lines[${index}].quantity`, quantity, 1, unitsMax);
    }
    before = skuId;
  }
}
