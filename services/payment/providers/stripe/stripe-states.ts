import type Stripe from 'stripe';
import type { RefundState, SessionState } from '../../provider.ts';
import { fromStripeAmount } from './stripe-amounts.ts';

/** What a PaymentIntent says about our session. */
export function intentState(intent: Stripe.PaymentIntent): SessionState {
  const { status, amount_received, currency, last_payment_error } = intent;
  if (status === 'succeeded') {
    return { kind: 'paid', captured: fromStripeAmount(amount_received, currency) };
  }
  if (status === 'canceled') return { kind: 'closed' };
  if (status === 'processing') return { kind: 'processing' };
  // It waits for another attempt: the buyer may still pay.
  if (status === 'requires_payment_method' && last_payment_error) {
    const { message, code } = last_payment_error;
    return { kind: 'failed', failure: message ?? code ?? 'no reason was given' };
  }
  return { kind: 'open' };
}

/** What a Stripe refund says about ours. One that waits for somebody (`requires_action`) is pending. */
export function refundState({ id, status, failure_reason }: Stripe.Refund): RefundState {
  if (status === 'succeeded') return { kind: 'succeeded', reference: id };
  if (status === 'failed' || status === 'canceled') {
    return { kind: 'failed', failure: failure_reason ?? `Stripe says ${status}` };
  }
  return { kind: 'pending', reference: id };
}
