import { PaymentSettlement, PaymentStatus } from '../../gen/sluice/payment/v1/payment.ts';
import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type { SessionState } from './provider.ts';

/** One attempt to pay an order, as stored. */
export interface Payment {
  readonly paymentId: bigint;
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
  readonly provider: string;
  /** The provider's id of the session; undefined until an answer or a webhook named it. */
  readonly reference: string | undefined;
  readonly paymentUrl: string;
  readonly status: PaymentStatus;
  readonly settlement: PaymentSettlement;
  readonly amount: Money;
  /** What the provider says was paid. */
  readonly captured: Money | undefined;
  readonly failure: string;
  /** The session can surely not be paid any more. */
  readonly sessionOver: boolean;
  readonly expireTime: Date;
  readonly createTime: Date;
  readonly updateTime: Date;
}

/** What a provider reports of a session, from a webhook or because it was asked. */
export interface SessionReport {
  readonly paymentId: bigint;
  readonly provider: string;
  /** Undefined if the provider refused to open one for good. */
  readonly reference: string | undefined;
  readonly state: SessionState;
  /** The session was voided before: whatever it is now, it is over. */
  readonly voided?: boolean;
}

/** What a report came to; also what the inbox keeps of a webhook. */
export type ReportEffect =
  | 'applied'
  /** Paid, but another amount or currency: kept and refunded. */
  | 'wrong_amount'
  /** Nothing new, or older than what is known. */
  | 'ignored'
  /** Of a session that is not this payment's. */
  | 'other_session'
  | 'unknown_payment';

export interface ReportedPayment {
  readonly effect: ReportEffect;
  /** The payment after it. */
  readonly payment: Payment;
}

const {
  PAYMENT_STATUS_PENDING: pending,
  PAYMENT_STATUS_SUCCEEDED: succeeded,
  PAYMENT_STATUS_FAILED: failed,
  PAYMENT_STATUS_CLOSED: closed,
} = PaymentStatus;

/** Characters of a provider's word that are kept. */
const failureCharactersMax = 200;

/**
 * What a report does to a payment. Reports come repeated and in any order: money that was captured beats every other
 * state, whenever it is reported, and a session that is over does not open again.
 */
export function applyReport(payment: Payment, report: SessionReport): ReportedPayment {
  if (payment.provider !== report.provider) return { effect: 'other_session', payment };
  const { reference } = report;
  if (payment.reference !== undefined && payment.reference !== reference) {
    return { effect: 'other_session', payment };
  }
  const isNews = payment.reference === undefined && reference !== undefined;
  const known = isNews ? { ...payment, reference } : payment;
  const after = moved(known, report);
  if (after === undefined) return { effect: 'ignored', payment: known };
  const isWrong = after.settlement === PaymentSettlement.PAYMENT_SETTLEMENT_SURPLUS;
  return { effect: isWrong ? 'wrong_amount' : 'applied', payment: after };
}

/** Whether money could still come in by the payment's session. */
export function canStillBePaid({ status, sessionOver }: Payment): boolean {
  return (status === pending || status === failed) && !sessionOver;
}

/** Whether the session needs no opening (any more). */
export function isOpened(payment: Payment): boolean {
  return payment.paymentUrl !== '' || !canStillBePaid(payment);
}

/** Whether the payment pays its order, or order is being asked whether it does. */
export function paysOrder({ settlement }: Payment): boolean {
  return (
    settlement === PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING ||
    settlement === PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED
  );
}

export function isSameMoney(a: Money, b: Money): boolean {
  return a.minorUnits === b.minorUnits && a.currencyCode === b.currencyCode;
}

/** The payment in its new state, or undefined if it keeps the one it has. */
function moved(payment: Payment, { state, voided = false }: SessionReport): Payment | undefined {
  const { status } = payment;
  if (status === succeeded) return undefined;
  if (state.kind === 'paid') return paid(payment, state.captured);
  if (state.kind === 'open' || state.kind === 'processing' || status === closed) return undefined;
  if (state.kind === 'closed') return { ...payment, status: closed, sessionOver: true };
  if (status === failed) {
    return voided && !payment.sessionOver ? { ...payment, sessionOver: true } : undefined;
  }
  const failure = [...state.failure].slice(0, failureCharactersMax).join('');
  return { ...payment, status: failed, failure, sessionOver: voided };
}

function paid(payment: Payment, captured: Money): Payment {
  const settlement = isSameMoney(payment.amount, captured)
    ? PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING
    : PaymentSettlement.PAYMENT_SETTLEMENT_SURPLUS;
  return { ...payment, status: succeeded, settlement, captured, failure: '', sessionOver: true };
}
