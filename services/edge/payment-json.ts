import {
  type Payment,
  paymentSettlementToJSON,
  paymentStatusToJSON,
  type Refund,
  refundStatusToJSON,
} from '../../gen/sluice/payment/v1/payment.ts';
import { moneyJson, timestampField } from './stock-json.ts';

// The proto3 JSON mapping with default values written out and every int64 as a string.

/** One payment with its refunds as JSON text. */
export function paymentJson(payment: Payment): string {
  return (
    `{"paymentId":"${payment.paymentId}","orderId":"${payment.orderId}","userId":"${payment.userId}"` +
    `,"status":"${paymentStatusToJSON(payment.status)}","amount":${moneyJson(payment.amount)}` +
    `,"provider":${JSON.stringify(payment.provider)}` +
    `,"providerReference":${JSON.stringify(payment.providerReference)}` +
    `,"paymentUrl":${JSON.stringify(payment.paymentUrl)}` +
    `,"refunds":[${payment.refunds.map(refundJson).join(',')}]` +
    `${timestampField('createTime', payment.createTime)}` +
    `${timestampField('updateTime', payment.updateTime)}` +
    `,"settlement":"${paymentSettlementToJSON(payment.settlement)}"` +
    `,"captured":${moneyJson(payment.captured)},"failure":${JSON.stringify(payment.failure)}` +
    `,"requestId":${JSON.stringify(payment.requestId)}}`
  );
}

/** The payments of an order as JSON text. */
export function paymentListJson(payments: readonly Payment[]): string {
  return `{"payments":[${payments.map(paymentJson).join(',')}]}`;
}

/** One refund as JSON text. */
export function refundJson(refund: Refund): string {
  return (
    `{"refundId":"${refund.refundId}","amount":${moneyJson(refund.amount)}` +
    `,"status":"${refundStatusToJSON(refund.status)}","reason":${JSON.stringify(refund.reason)}` +
    `,"restock":${refund.restock}${timestampField('createTime', refund.createTime)}` +
    `,"requestId":${JSON.stringify(refund.requestId)},"failure":${JSON.stringify(refund.failure)}` +
    `${timestampField('updateTime', refund.updateTime)}}`
  );
}
