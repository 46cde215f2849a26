import type {
  Payment as PaymentMessage,
  Refund as RefundMessage,
} from '../../gen/sluice/payment/v1/payment.ts';
import { canStillBePaid, type Payment } from './payment.ts';
import { operatorPrefix, type Refund } from './refund.ts';

/** A payment as its contract shows it. */
export function paymentMessage(payment: Payment, refunds: readonly Refund[] = []): PaymentMessage {
  const { paymentId, orderId, userId, status, settlement, amount, captured } = payment;
  const { provider, failure, requestId, createTime, updateTime } = payment;
  return {
    ...{ paymentId, orderId, userId, status, settlement, amount, captured },
    ...{ provider, failure, requestId, createTime, updateTime },
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
