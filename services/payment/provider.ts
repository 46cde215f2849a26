import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type { Deadline } from '../runtime/deadline.ts';

/** What is needed to open a session. The same payment always gets the same session, however often it is asked for. */
export interface SessionRequest {
  /** Sent as the idempotency key and as metadata, so that every webhook of the session names it. */
  readonly paymentId: bigint;
  readonly orderId: bigint;
  readonly amount: Money;
  /** When the session ends by itself. */
  readonly expireTime: Date;
}

/** A session where the buyer pays. */
export interface Session {
  /** The provider's id of it. */
  readonly reference: string;
  readonly paymentUrl: string;
}

/** What a provider knows about a session: from a webhook, or because it was asked. */
export type SessionState =
  | { readonly kind: 'open' }
  /** Paid by a debit that the bank has not decided: it may become either, and cannot be voided meanwhile. */
  | { readonly kind: 'processing' }
  | { readonly kind: 'paid'; readonly captured: Money }
  | { readonly kind: 'failed'; readonly failure: string }
  /** Voided or run out; it can never be paid any more. */
  | { readonly kind: 'closed' };

export interface RefundOrder {
  /** Sent as the idempotency key and as metadata. */
  readonly refundId: bigint;
  /** The session that was paid. */
  readonly reference: string;
  readonly amount: Money;
}

export type RefundState =
  | { readonly kind: 'pending'; readonly reference: string }
  | { readonly kind: 'succeeded'; readonly reference: string }
  /** Refused for good: no repetition helps. */
  | { readonly kind: 'failed'; readonly failure: string };

/** A webhook whose signature is genuine. */
export interface ProviderEvent {
  /** The provider's id of the event; the same in every delivery. */
  readonly eventId: string;
  /** The provider's own word for it. */
  readonly type: string;
  /** What it says about one of our things; `unknown` is acknowledged and kept. */
  readonly subject:
    | {
        readonly kind: 'session';
        readonly paymentId: bigint;
        readonly reference: string;
        readonly state: SessionState;
      }
    | { readonly kind: 'refund'; readonly refundId: bigint; readonly state: RefundState }
    | { readonly kind: 'unknown' };
}

/**
 * A payment provider. Every call may be repeated without another effect. Errors are Refusals: OUTCOME_UNKNOWN after a
 * timeout or a lost answer, DEPENDENCY_DOWN or OVERLOADED where surely nothing happened, INVALID_REQUEST where the provider
 * refused for good. What else they say is told in `provider-refusal.ts`. It neither retries nor paces; its caller does.
 */
export interface PaymentProvider {
  readonly name: string;
  /** Opens the session of a payment, or answers the one that it has. */
  openSession(request: SessionRequest, deadline: Deadline): Promise<Session>;
  /** What became of a session. */
  readSession(reference: string, deadline: Deadline): Promise<SessionState>;
  /** Voids a session unless it was paid; answers what it is afterwards: paid, closed, or processing, which it leaves alone. */
  closeSession(reference: string, deadline: Deadline): Promise<SessionState>;
  /** Gives money back; asked again with the same refund, it answers what became of it. */
  refund(order: RefundOrder, deadline: Deadline): Promise<RefundState>;
  /** What became of a refund; undefined if the provider has never heard of it. */
  readRefund(order: RefundOrder, deadline: Deadline): Promise<RefundState | undefined>;
  /**
   * Checks a webhook's signature and age and reads it.
   *
   * @throws Refusal UNAUTHENTICATED (bad, missing, old or future signature), INVALID_REQUEST (not readable)
   */
  readWebhook(
    body: Uint8Array,
    headers: Readonly<Record<string, string>>,
    now: Date,
  ): ProviderEvent;
  /** Reads a webhook whose signature was checked when it came. @throws Refusal INVALID_REQUEST (not readable) */
  readStored(body: Uint8Array): ProviderEvent;
}
