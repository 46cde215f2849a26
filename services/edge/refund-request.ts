import type { RefundPaymentRequest } from '../../gen/sluice/payment/v1/payment_service.ts';
import { type FieldViolation, invalidRequest } from '../runtime/refusals.ts';
import { readRequestId } from './create-order-request.ts';
import { JsonFields, JsonNames } from './json-fields.ts';

const refundNames = new JsonNames('amount', 'reason', 'restock');
/** A refund of nothing, or of less, is none; how much is left only payment knows. */
const minorUnitsBounds = { min: 1n, max: 2n ** 63n - 1n };

/**
 * Reads the body and the key of `POST /v1/admin/payments/{id}/refunds`. Without an amount all that is
 * left goes back.
 *
 * @throws Refusal INVALID_REQUEST naming every field at fault
 */
export function readRefundRequest(
  paymentId: bigint,
  idempotencyKey: string | string[] | undefined,
  body: unknown,
): RefundPaymentRequest {
  const violations: FieldViolation[] = [];
  const requestId = readRequestId(idempotencyKey, violations);
  const fields = new JsonFields(body, refundNames, violations);
  const request = {
    paymentId,
    requestId,
    amount: fields.money('amount', minorUnitsBounds),
    reason: fields.string('reason'),
    restock: fields.boolean('restock'),
  };
  if (violations.length > 0) throw invalidRequest(violations);
  return request;
}
