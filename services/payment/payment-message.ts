import {
  type Payment as PaymentMessage,
  PaymentStatus,
  type Refund as RefundMessage,
} from '../../gen/sluice/payment/v1/payment.ts';
import { canStillBePaid, type Payment } from './payment.ts';
import { operatorPrefix, type Refund } from './refund.ts';

/** A payment as its contract shows it. */
export function paymentMessage(payment: Payment, refunds: readonly Refund[] = []): PaymentMessage {
  const { paymentId, orderId, userId, status, settlement, amount, captured } = payment;
  const { provider, requestId, createTime, updateTime } = payment;
  return {
    ...{ paymentId, orderId, userId, status, settlement, amount, captured },
    ...{ provider, requestId, createTime, updateTime },
    // Kept for operators after the session was closed; to the buyer that payment did not fail.
    failure: status === PaymentStatus.PAYMENT_STATUS_FAILED ? payment.failure : '',
    providerReference: payment.reference ?? '',
    paymentUrl: canStillBePaid(payment) ? payment.paymentUrl : '',
    refunds: refunds.map(refundMessage),
  };
}

/** A refund as its contract shows it: an operator's under the name that he gave it. */
export function refundMessage(refund: Refund): RefundMessage {
  const { refundId, amount, status, reason, restock, failure, createTime, updateTime } = refund;
  const { requestId } = refund;
  return {
    ...{ refundId, amount, status, reason, restock, failure, createTime, updateTime },
    requestId: requestId.startsWith(operatorPrefix)
      ? requestId.slice(operatorPrefix.length)
      : requestId,
  };
}
