import type { CreateOrderRequest, OrderLine } from '../../gen/sluice/order/v1/order_service.ts';
import { type FieldViolation, invalidRequest } from '../runtime/refusals.ts';
import { JsonFields, JsonNames } from './json-fields.ts';

/** The header that names the request; the same for every retry of one click. */
export const idempotencyKeyHeader = 'Idempotency-Key';

/** 1 to 128 printable ASCII characters, as the order service takes them. */
const requestIdPattern = /^[\x20-\x7e]{1,128}$/;
const linesMax = 20;
const quantityMax = 1_000;
const skuIdBounds = { min: 1n, max: 2n ** 63n - 1n };

const orderNames = new JsonNames('lines');
const lineNames = new JsonNames('skuId', 'quantity');

/**
 * Reads the body and the key of `POST /v1/orders`. The bounds are those of the order service, which
 * checks them again for its other callers: a bad order is turned away before it takes a place in a batch.
 *
 * @throws Refusal INVALID_REQUEST naming every field at fault
 */
export function readCreateOrderRequest(
  userId: bigint,
  idempotencyKey: string | string[] | undefined,
  body: unknown,
): CreateOrderRequest {
  const violations: FieldViolation[] = [];
  const requestId = readRequestId(idempotencyKey, violations);
  const order = new JsonFields(body, orderNames, violations);
  const lines: OrderLine[] = [];
  for (const { value, path } of order.list('lines', { min: 1, max: linesMax })) {
    const line = new JsonFields(value, lineNames, violations, path);
    lines.push({
      skuId: line.int64('skuId', skuIdBounds),
      quantity: line.int32('quantity', { min: 1, max: quantityMax }),
    });
  }
  if (violations.length > 0) throw invalidRequest(violations);
  return { userId, requestId, lines };
}

/** The request id of a header; a missing or bad one is a violation under the header's name. */
export function readRequestId(
  header: string | string[] | undefined,
  violations: FieldViolation[],
): string {
  if (typeof header === 'string' && requestIdPattern.test(header)) return header;
  violations.push({
    field: idempotencyKeyHeader,
    description: 'this header must have 1 to 128 printable ASCII characters',
  });
  return '';
}
