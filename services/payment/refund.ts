import { PaymentSettlement, RefundStatus } from '../../gen/sluice/payment/v1/payment.ts';
import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import { type FieldViolation, invalidRequest, Refusal } from '../runtime/refusals.ts';
import type { Payment } from './payment.ts';
import type { RefundState } from './provider.ts';

/** Money that goes back to the buyer, as stored. */
export interface Refund {
  readonly refundId: bigint;
  readonly paymentId: bigint;
  /** `surplus`, `cancel`, or an operator's after `op:`, so that no operator's can take the others' place. */
  readonly requestId: string;
  readonly amount: Money;
  /** All that was left was asked for, without naming an amount. */
  readonly whole: boolean;
  readonly status: RefundStatus;
  readonly reason: string;
  readonly restock: boolean;
  readonly reference: string | undefined;
  readonly failure: string;
  readonly told: Told;
  readonly createTime: Date;
  readonly updateTime: Date;
}

/** How much of a refund order knows. */
export const Told = { nothing: 0, begun: 1, all: 2 } as const;
export type Told = (typeof Told)[keyof typeof Told];

export const surplusRequestId = 'surplus';
export const cancelRequestId = 'cancel';
export const operatorPrefix = 'op:';

/** What an operator asks for. */
export interface RefundWish {
  /** Undefined asks for all that is left. */
  readonly amount: Money | undefined;
  readonly requestId: string;
  readonly reason: string;
  readonly restock: boolean;
}

const {
  REFUND_STATUS_SUCCEEDED: succeeded,
  REFUND_STATUS_FAILED: failed,
  REFUND_STATUS_SENT: sent,
} = RefundStatus;

/** What of a payment has not been asked back yet; a refund that failed for good does not count. */
export function refundableMinor(payment: Payment, refunds: readonly Refund[]): bigint {
  const captured = payment.captured?.minorUnits ?? 0n;
  return captured - sumOf(refunds.filter(({ status }) => status !== failed));
}

/** What went back so far, with whether units go back on sale: what order is told. */
export function refundedSoFar(refunds: readonly Refund[]): { minor: bigint; restock: boolean } {
  const done = refunds.filter(({ status }) => status === succeeded);
  return { minor: sumOf(done), restock: done.some(({ restock }) => restock) };
}

/**
 * What is to go back for a wish that no stored refund answers. Of a SURPLUS payment something is left only if the
 * provider refused a refund for good; nothing was sold for it, so no units can go back on sale with it.
 *
 * @throws Refusal ILLEGAL_TRANSITION if no money is known to be there; INVALID_REQUEST if it asks for too much
 */
export function amountToRefund(
  payment: Payment,
  refunds: readonly Refund[],
  { amount, restock }: RefundWish,
): Money {
  const isSurplus = payment.settlement === PaymentSettlement.PAYMENT_SETTLEMENT_SURPLUS;
  if (!isSurplus && payment.settlement !== PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED) {
    const message = 'Only a payment that pays its order, or is surplus, can be refunded';
    throw new Refusal('ILLEGAL_TRANSITION', message);
  }
  // Surplus money may have come in another currency than the order's.
  const { currencyCode } = payment.captured ?? payment.amount;
  const leftMinor = refundableMinor(payment, refunds);
  const wanted = amount ?? { currencyCode, minorUnits: leftMinor };
  const violations: FieldViolation[] = [];
  if (wanted.currencyCode !== currencyCode) {
    const description = `The payment is in ${currencyCode}.`;
    violations.push({ field: 'amount.currency_code', description });
  } else if (wanted.minorUnits > leftMinor || leftMinor <= 0n) {
    const description = `${leftMinor} minor units are left to refund.`;
    violations.push({ field: 'amount', description });
  } else if (restock && isSurplus) {
    const description = 'The payment is surplus: no units were sold for it.';
    violations.push({ field: 'restock', description });
  } else if (restock && wanted.minorUnits !== leftMinor) {
    const description = 'Units go back on sale only with a refund of all that is left.';
    violations.push({ field: 'restock', description });
  }
  if (violations.length > 0) throw invalidRequest(violations);
  return wanted;
}

/** Whether a stored refund was asked for in the very same words. */
export function isSameWish(refund: Refund, { amount, reason, restock }: RefundWish): boolean {
  if (refund.reason !== reason || refund.restock !== restock) return false;
  if (amount === undefined || refund.whole) return amount === undefined && refund.whole;
  const { minorUnits, currencyCode } = refund.amount;
  return minorUnits === amount.minorUnits && currencyCode === amount.currencyCode;
}

/** What a provider's word does to a refund: its new state, or undefined if it keeps the one it has. */
export function applyRefundState(refund: Refund, state: RefundState): Refund | undefined {
  if (isOver(refund)) return undefined;
  if (state.kind === 'failed') return { ...refund, status: failed, failure: state.failure };
  const { reference } = state;
  if (state.kind === 'succeeded') return { ...refund, status: succeeded, reference };
  if (refund.status === sent && refund.reference === reference) return undefined;
  return { ...refund, status: sent, reference };
}

/** Whether a provider contradicts what it said before; money needs an operator's eyes then. */
export function contradicts({ status }: Refund, { kind }: RefundState): boolean {
  return (status === succeeded && kind === 'failed') || (status === failed && kind === 'succeeded');
}

export function isOver({ status }: Refund): boolean {
  return status === succeeded || status === failed;
}

function sumOf(refunds: readonly Refund[]): bigint {
  return refunds.reduce((sum, { amount }) => sum + amount.minorUnits, 0n);
}
