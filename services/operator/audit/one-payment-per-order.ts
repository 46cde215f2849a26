import type { OrderPicture, OrderRow, PaymentRow, RefundRow } from './order-picture.ts';
import type { OrderLook, PromiseCheck } from './promise.ts';
import {
  order as orderState,
  payment as paymentState,
  refundName,
  refund as refundState,
  settlement,
  settlementName,
  statusName,
  wasPaid,
} from './states.ts';

/** P6: one payment per order, amounts equal; what is too much goes back, once. */
export const onePaymentPerOrder: PromiseCheck = {
  id: 'P6',
  title: 'One payment per order',
  counts(picture, count) {
    count('payments', picture.payments.length);
    count('refunds', picture.refunds.length);
    if (picture.order !== undefined && wasPaid(picture.order.status)) count('paid orders', 1);
  },
  lookAtOrder(look) {
    const { order, payments, refunds } = look.picture;
    if (order === undefined && payments.length === 0) return;
    for (const payment of payments) {
      lookAtPayment(look, payment);
      const own = refunds.filter(({ paymentId }) => paymentId === payment.paymentId);
      lookAtRefunds(look, payment, own);
      for (const refund of own) lookAtWork(look, payment, refund, leftToRefund(payment, own));
    }
    if (order === undefined || order.status === orderState.aborted) withoutOrder(look);
    else lookAtPaidOrder(look, order);
  },
};

type Report = (kind: string, sentence: string) => void;

function reporterOf({ picture: { orderId }, report }: OrderLook): Report {
  return (kind, sentence) => report({ kind, sentence, orderId });
}

function withoutOrder(look: OrderLook): void {
  const { orderId, payments } = look.picture;
  for (const { paymentId, settlement: settled } of payments) {
    if (settled === settlement.surplus) continue;
    const sentence = `payment ${paymentId} is for order ${orderId}, which does not exist`;
    reporterOf(look)('payment-without-order', sentence);
  }
}

function lookAtPaidOrder(look: OrderLook, order: OrderRow): void {
  const flaw = reporterOf(look);
  const { orderId, payments } = look.picture;
  const name = `order ${orderId} (${statusName(order.status)})`;
  const recorded = payments.filter((payment) => payment.settlement === settlement.recorded);
  const [one] = recorded;
  if (recorded.length > 1) {
    const ids = recorded.map(({ paymentId }) => paymentId).join(', ');
    flaw('paid-twice', `${name} is paid by the payments ${ids}`);
  }
  if (!wasPaid(order.status)) {
    if (one !== undefined) {
      flaw('payment-of-unpaid-order', `payment ${one.paymentId} is RECORDED for ${name}`);
    }
    if (order.paymentId !== '0') {
      flaw('payment-of-unpaid-order', `${name} names payment ${order.paymentId}`);
    }
    if (order.refundedMinor !== '0') {
      flaw('refund-differs', `${name} says that ${order.refundedMinor} went back`);
    }
    lookAtOpenSessions(look, order);
    return;
  }
  if (one === undefined) {
    flaw('paid-without-payment', `${name} has no RECORDED payment`);
    return;
  }
  if (order.paymentId !== one.paymentId) {
    flaw(
      'payment-differs',
      `${name} names payment ${order.paymentId}, RECORDED is ${one.paymentId}`,
    );
  }
  if (one.amountMinor !== order.totalMinor || one.currency !== order.currency) {
    flaw(
      'amount-differs',
      `${name} costs ${order.totalMinor} ${order.currency}, payment ${one.paymentId} is of ${one.amountMinor} ${one.currency}`,
    );
  }
  if (order.userId !== one.userId) {
    flaw('payer-differs', `${name} is not of the user that payment ${one.paymentId} is of`);
  }
  lookAtRefunded(look.picture, order, one, flaw);
}

/** What order believes to have gone back is what went back. */
function lookAtRefunded(
  { orderId, refunds }: OrderPicture,
  order: OrderRow,
  { paymentId }: PaymentRow,
  flaw: Report,
): void {
  let gone = 0n;
  for (const row of refunds) {
    if (row.paymentId === paymentId && row.status === refundState.succeeded) {
      gone += BigInt(row.amountMinor);
    }
  }
  if (BigInt(order.refundedMinor) !== gone) {
    flaw(
      'refund-differs',
      `order ${orderId} says that ${order.refundedMinor} went back, the refunds of payment ${paymentId} say ${gone}`,
    );
  }
  // An order that cost nothing has nothing to give back, so it stays PAID.
  const whole = gone > 0n && gone === BigInt(order.totalMinor);
  if (whole !== (order.status === orderState.refunded)) {
    flaw(
      'refund-differs',
      `order ${orderId} is ${statusName(order.status)}, and ${gone} of ${order.totalMinor} went back`,
    );
  }
}

/** A closed order's sessions were voided first: a page that can still be paid would take money for nothing. */
function lookAtOpenSessions(look: OrderLook, { status }: OrderRow): void {
  if (status !== orderState.cancelled) return;
  for (const payment of look.picture.payments) {
    if (payment.status !== paymentState.pending) continue;
    const sentence = `order ${look.picture.orderId} is CANCELLED, and its payment ${payment.paymentId} can still be paid`;
    reporterOf(look)('session-of-closed-order', sentence);
  }
}

/** One payment by itself. */
function lookAtPayment(look: OrderLook, payment: PaymentRow): void {
  const flaw = reporterOf(look);
  const { paymentId, settlement: settled, capturedMinor } = payment;
  const name = `payment ${paymentId} of order ${look.picture.orderId}`;
  const succeeded = payment.status === paymentState.succeeded;
  if (succeeded !== (settled !== settlement.none) || succeeded !== (capturedMinor !== null)) {
    flaw(
      'settlement-differs',
      `${name} has the settlement ${settlementName(settled)} and captured ${capturedMinor ?? 'nothing'}, which its state does not allow`,
    );
  } else if (succeeded && settled !== settlement.surplus) {
    const equal =
      capturedMinor === payment.amountMinor && payment.capturedCurrency === payment.currency;
    if (!equal) {
      flaw(
        'captured-differs',
        `${name} is of ${payment.amountMinor} ${payment.currency}, and ${capturedMinor} ${payment.capturedCurrency} was paid`,
      );
    }
  }
  const waits = payment.status === paymentState.pending || settled === settlement.awaiting;
  if (waits && isStuck(look, payment.nextTime)) {
    const what = settled === settlement.awaiting ? 'order was not told' : 'nobody asks about it';
    flaw('payment-stuck', `${name} waits since ${payment.nextTime ?? 'ever'} UTC: ${what}`);
  }
}

function lookAtRefunds(look: OrderLook, payment: PaymentRow, refunds: readonly RefundRow[]): void {
  const flaw = reporterOf(look);
  const name = `payment ${payment.paymentId} of order ${look.picture.orderId}`;
  const captured = BigInt(payment.capturedMinor ?? 0);
  const left = leftToRefund(payment, refunds);
  let refused = 0n;
  for (const row of refunds) {
    if (row.status === refundState.failed) refused += BigInt(row.amountMinor);
    if (row.currency !== (payment.capturedCurrency ?? row.currency)) {
      flaw('refund-currency', `refund ${row.refundId} of ${name} is in ${row.currency}`);
    }
  }
  const asked = captured - left;
  if (left < 0n) {
    flaw('refunded-too-much', `${name} captured ${captured}, and its refunds add up to ${asked}`);
  }
  // What the provider refused was asked for: that it is asked for again is an operator's work.
  if (payment.settlement === settlement.surplus && (left < 0n || left > refused)) {
    flaw(
      'surplus-not-refunded-once',
      `${name} is SURPLUS, ${captured} was captured and ${asked} goes back`,
    );
  }
}

/** What of a payment no refund gives back, refused ones not counted; negative if too much goes back. */
function leftToRefund({ capturedMinor }: PaymentRow, refunds: readonly RefundRow[]): bigint {
  let left = BigInt(capturedMinor ?? 0);
  for (const row of refunds) {
    if (row.status !== refundState.failed) left -= BigInt(row.amountMinor);
  }
  return left;
}

/**
 * Refunds are work items: each is done, or somebody will see to it. One that was refused is an operator's for as long as
 * something of its payment is left that another could give back.
 */
function lookAtWork(look: OrderLook, payment: PaymentRow, refund: RefundRow, left: bigint): void {
  const { orderId } = look.picture;
  const name = `refund ${refund.refundId} of ${refund.amountMinor} ${refund.currency} (payment ${payment.paymentId}, order ${orderId})`;
  if (refund.status === refundState.failed) {
    if (left <= 0n) return;
    const sentence = `${name} was refused by the provider for good, and ${left} did not go back: an operator must ask for another refund`;
    look.report({ kind: 'refund-failed', sentence, orderId, isFinding: true });
    return;
  }
  const isDone =
    refund.status === refundState.succeeded &&
    (refund.told || payment.settlement === settlement.surplus);
  if (!isDone && isStuck(look, refund.nextTime)) {
    const sentence = `${name} is ${refundName(refund.status)} and waits since ${refund.nextTime ?? 'ever'} UTC`;
    look.report({ kind: 'refund-stuck', sentence, orderId });
  }
}

/** Work that nobody will see to, or that should have been seen to long ago. */
function isStuck({ clock }: OrderLook, nextTime: string | null): boolean {
  return nextTime === null || nextTime <= clock.settledBefore;
}
