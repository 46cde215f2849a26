import type {
  BatchHandleWebhooksRequest,
  CreatePaymentRequest,
  HandleWebhookRequest,
  RefundPaymentRequest,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import { type FieldViolation, invalidRequest } from '../runtime/refusals.ts';
import type { PaymentAttempt } from './create-payment.ts';
import type { RawWebhook } from './handle-webhook.ts';
import type { RefundWish } from './refund.ts';

/** The greatest id that fits an int64. */
const idMax = 2n ** 63n - 1n;
const bodyBytesMax = 256 * 1024;
const headersMax = 100;
/** Webhooks in one call at most, and bytes in their bodies: half of the largest message, as headers need room, too. */
const webhooksMax = 100;
const webhookBytesMax = 1024 * 1024;
const reasonCharactersMax = 200;
const requestIdPattern = /^[\x20-\x7e]{1,128}$/;

/** @throws Refusal INVALID_REQUEST naming every field that is wrong, as do all of these */
export function attemptOf({ orderId, userId, requestId }: CreatePaymentRequest): PaymentAttempt {
  require([
    ...idFaults('order_id', orderId),
    ...idFaults('user_id', userId),
    ...nameFaults(requestId),
  ]);
  return { orderId, userId, requestId };
}

/** Checks an id and the user who asks for it; 0 is an internal caller. */
export function requireName(field: 'payment_id' | 'order_id', id: bigint, userId: bigint): void {
  const user = userId < 0n ? [fault('user_id', 'Send a positive id, or 0.')] : [];
  require([...idFaults(field, id), ...user]);
}

export function requireOrderId(orderId: bigint): void {
  require(idFaults('order_id', orderId));
}

export function refundWishOf(request: RefundPaymentRequest): RefundWish {
  const { paymentId, amount, requestId, reason, restock } = request;
  const violations = [...idFaults('payment_id', paymentId), ...nameFaults(requestId)];
  if ([...reason].length > reasonCharactersMax) {
    violations.push(fault('reason', `Send ${reasonCharactersMax} characters at most.`));
  }
  if (amount && !/^[A-Z]{3}$/.test(amount.currencyCode)) {
    violations.push(fault('amount.currency_code', 'Send three upper-case letters, such as USD.'));
  }
  if (amount && (amount.minorUnits <= 0n || amount.minorUnits > idMax)) {
    violations.push(fault('amount.minor_units', 'Send a positive amount.'));
  }
  require(violations);
  return { amount, requestId, reason, restock };
}

export function rawWebhookOf({ provider, body, headers }: HandleWebhookRequest): RawWebhook {
  const violations: FieldViolation[] = [];
  if (!/^[a-z0-9_-]{1,32}$/.test(provider)) {
    violations.push(fault('provider', 'Send the name of a provider, such as simulator.'));
  }
  if (body.length === 0 || body.length > bodyBytesMax) {
    violations.push(fault('body', `Send 1 to ${bodyBytesMax} bytes.`));
  }
  if (Object.keys(headers).length > headersMax) {
    violations.push(fault('headers', `Send ${headersMax} at most.`));
  }
  require(violations);
  return { provider, body, headers };
}

/** Checks the size of a batch of webhooks; each of them is checked by itself. */
export function requireBatch({ requests }: BatchHandleWebhooksRequest): void {
  const bytes = requests.reduce((sum, { body }) => sum + body.length, 0);
  const violations: FieldViolation[] = [];
  if (requests.length === 0 || requests.length > webhooksMax) {
    violations.push(fault('requests', `Send 1 to ${webhooksMax}, not ${requests.length}.`));
  }
  if (bytes > webhookBytesMax) {
    violations.push(fault('requests', `Send ${webhookBytesMax} bytes in their bodies at most.`));
  }
  require(violations);
}

function idFaults(field: string, id: bigint): FieldViolation[] {
  return id > 0n && id <= idMax ? [] : [fault(field, 'Send a positive id.')];
}

function nameFaults(requestId: string): FieldViolation[] {
  if (requestIdPattern.test(requestId)) return [];
  return [fault('request_id', 'Send 1 to 128 printable ASCII characters.')];
}

function fault(field: string, description: string): FieldViolation {
  return { field, description };
}

function require(violations: readonly FieldViolation[]): void {
  if (violations.length > 0) throw invalidRequest(violations);
}
