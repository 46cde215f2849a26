import { hash } from 'node:crypto';
import type { CreateOrderRequest, OrderLine } from '../../gen/sluice/order/v1/order_service.ts';
import type { FieldViolation } from '../runtime/refusals.ts';
import { slotOfUser } from './order-id.ts';

/** Lines of one request at most, before equal SKUs are merged. */
export const linesMax = 20;
/** Units of one line at most; merged lines may add up to 20 times this. */
export const quantityMax = 1_000;
/** Characters of a request id at most. */
export const requestIdLengthMax = 128;

const fingerprintBytes = 16;
const printableAscii = /^[\x20-\x7e]+$/;

/** A valid request, ready to be placed. */
export interface OrderDraft {
  readonly userId: bigint;
  readonly requestId: string;
  /** Names (user, request id) in maps. */
  readonly requestKey: string;
  readonly slot: number;
  /** Ascending by SKU, each SKU once. */
  readonly lines: OrderLine[];
  /** 16 bytes; equal for equal (user, merged lines), whatever order the lines came in. */
  readonly fingerprint: Buffer;
  readonly fingerprintHex: string;
}

/** Turns a request into a draft, or says what is wrong with it, field by field. */
export function draftOrder(request: CreateOrderRequest): OrderDraft | FieldViolation[] {
  const violations = violationsOf(request);
  if (violations.length > 0) return violations;
  const { userId, requestId } = request;
  const lines = mergeLines(request.lines);
  const fingerprintHex = fingerprintOf(userId, lines);
  return {
    userId,
    requestId,
    requestKey: requestKeyOf(userId, requestId),
    slot: slotOfUser(userId),
    lines,
    fingerprint: Buffer.from(fingerprintHex, 'hex'),
    fingerprintHex,
  };
}

/** Names (user, request id) in maps; a request id cannot contain a line break. */
export function requestKeyOf(userId: bigint | string, requestId: string): string {
  return `${userId}\n${requestId}`;
}

function violationsOf({ userId, requestId, lines }: CreateOrderRequest): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const wrong = (field: string, description: string): void => {
    violations.push({ field, description });
  };
  if (userId <= 0n) wrong('user_id', 'Send the positive id of the buyer.');
  if (requestId.length === 0 || requestId.length > requestIdLengthMax) {
    wrong('request_id', `Send 1 to ${requestIdLengthMax} characters, the same for every retry.`);
  } else if (!printableAscii.test(requestId)) {
    wrong('request_id', 'Send printable ASCII characters only.');
  }
  if (lines.length === 0 || lines.length > linesMax) {
    wrong('lines', `Send 1 to ${linesMax} lines, not ${lines.length}.`);
    return violations;
  }
  for (const [index, { skuId, quantity }] of lines.entries()) {
    if (skuId <= 0n) wrong(`lines[${index}].sku_id`, 'Send the positive id of a SKU.');
    if (quantity < 1 || quantity > quantityMax) {
      wrong(`lines[${index}].quantity`, `Send 1 to ${quantityMax} units, not ${quantity}.`);
    }
  }
  return violations;
}

function mergeLines(lines: OrderLine[]): OrderLine[] {
  if (lines.length === 1) return lines;
  const units = new Map<bigint, number>();
  for (const { skuId, quantity } of lines) units.set(skuId, (units.get(skuId) ?? 0) + quantity);
  return [...units]
    .map(([skuId, quantity]) => ({ skuId, quantity }))
    .sort((a, b) => (a.skuId < b.skuId ? -1 : 1));
}

const canonical = Buffer.alloc(8 + linesMax * 12);

function fingerprintOf(userId: bigint, lines: readonly OrderLine[]): string {
  let end = canonical.writeBigInt64BE(userId, 0);
  for (const { skuId, quantity } of lines) {
    end = canonical.writeBigInt64BE(skuId, end);
    end = canonical.writeInt32BE(quantity, end);
  }
  return hash('sha256', canonical.subarray(0, end), 'hex').slice(0, fingerprintBytes * 2);
}
