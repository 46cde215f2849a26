import { PaymentStatus } from '../../gen/sluice/payment/v1/payment.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { ApplySessionState } from './apply-session-state.ts';
import type { Place } from './call-places.ts';
import type { ClaimedPayment } from './claims.ts';
import type { PacedProvider } from './paced-provider.ts';
import { canStillBePaid, isOpened, type Payment } from './payment.ts';
import type { PaymentDatabase } from './payment-database.ts';
import { readFenced, readPayment, storeSession } from './payment-store.ts';
import type { Session, SessionState } from './provider.ts';
import { ReplayedRefusal } from './provider-refusal.ts';

/** The session of a payment, on both sides: the provider's, and what is stored of it. */
export interface PaymentSessions {
  /**
   * Opens the session, or takes over the one that an attempt before has opened; answers the payment as stored. A payment
   * whose session is open or over already is answered as it is.
   *
   * @param place the buyer's; none if nobody waits
   * @throws Refusal ILLEGAL_TRANSITION if the order is being closed or paid; OVERLOADED, DEPENDENCY_DOWN, OUTCOME_UNKNOWN
   */
  open(paymentId: bigint, deadline: Deadline, place?: Place): Promise<Payment>;
  /**
   * Makes sure that the session cannot be paid any more, unless it was paid; answers the payment after it, and whether it
   * is in processing, when it is neither. A session whose page nobody has seen is over without the provider.
   *
   * @throws Refusal if that is not known; asking again does no harm
   */
  void(payment: Payment, deadline: Deadline, purpose: ClosePurpose): Promise<VoidedPayment>;
  /** Asks the provider and applies what it says; voids a session that outlived the time to pay its order. */
  refresh(payment: ClaimedPayment, deadline: Deadline): Promise<void>;
}

/** Whether somebody waits for a session to be voided, or only its time is over. */
export type ClosePurpose = 'void' | 'expire';

export interface VoidedPayment {
  readonly payment: Payment;
  readonly isProcessing: boolean;
}

export interface PaymentSessionsOptions {
  readonly database: PaymentDatabase;
  readonly providers: ReadonlyMap<string, PacedProvider>;
  readonly applySessionState: ApplySessionState;
  readonly log: Log;
}

const openMs = 5_000;
const voidMs = 4_000;
const readMs = 5_000;
/** What is left to tell the caller that the provider did not answer: his own time-out would say that we are away. */
const answerMs = 300;
/** Closing the order comes first; what it leaves open for this long after the order's time is void. */
const overdueMs = 60_000;

export function createPaymentSessions(options: PaymentSessionsOptions): PaymentSessions {
  const { database } = options;
  const sessions: PaymentSessions = {
    async open(paymentId, deadline, place) {
      // Read after the payment was committed: a closing that has not seen it has left its fence before.
      const fenced = await readFenced(database, paymentId, deadline);
      if (fenced === undefined) throw new Refusal('OUTCOME_UNKNOWN', 'The payment is gone');
      const { payment, isClosed, isPaid } = fenced;
      if (isClosed) {
        await sessions.void(payment, deadline, 'void');
        throw orderCloses();
      }
      if (isOpened(payment)) return payment;
      if (isPaid) {
        // Another attempt was paid before this one was opened: a page for it would charge the buyer twice.
        await sessions.void(payment, deadline, 'void');
        throw new Refusal('ILLEGAL_TRANSITION', 'The order is being paid');
      }
      const session = await openAtProvider(options, payment, deadline, place);
      if (session instanceof Refusal) {
        // No repetition helps, so the attempt has failed, with the provider's word.
        const state = { kind: 'failed', failure: failureOf(session) } as const;
        return await apply(options, payment, undefined, state, deadline);
      }
      const isStored = await storeSession(database, payment.paymentId, session, deadline);
      if (failpoints.on) await failpoints.hit('payment.after_store_session', infoOf(payment));
      if (isStored) return { ...payment, ...session };
      // A webhook, a copy of this attempt or a closing was faster.
      const stored = await readPayment(database, payment.paymentId, deadline);
      if (stored === undefined) throw new Refusal('OUTCOME_UNKNOWN', 'The payment is gone');
      if (stored.status !== PaymentStatus.PAYMENT_STATUS_CLOSED) return stored;
      await forgetSession(options, stored, session.reference, deadline);
      throw orderCloses();
    },

    async void(payment, deadline, purpose) {
      if (!canStillBePaid(payment)) return { payment, isProcessing: false };
      if (payment.reference !== undefined) {
        return await voidReference(options, payment, payment.reference, deadline, purpose);
      }
      // Whatever the provider may have opened, nobody was given its page, and from here on nobody is.
      const over = await apply(options, payment, undefined, { kind: 'closed' }, deadline);
      return { payment: over, isProcessing: false };
    },

    async refresh(payment, deadline) {
      const { reference } = payment;
      if (!canStillBePaid(payment)) return;
      // An order that was paid otherwise is never closed, and not every provider ends its sessions by itself.
      // A clock that has stepped must not void what a buyer is paying, so both have to say so.
      const nowMs = Math.min(Date.now(), payment.claimTime.getTime());
      const isOverdue = payment.expireTime.getTime() + overdueMs < nowMs;
      if (reference === undefined) {
        if (isOverdue) await sessions.void(payment, deadline, 'expire');
        else await sessions.open(payment.paymentId, deadline);
        return;
      }
      const state = await readAtProvider(options, payment, reference, deadline, 'read');
      if (failpoints.on) await failpoints.hit('payment.after_read_session', infoOf(payment));
      if (state?.kind === 'processing') return;
      if (isOverdue && state?.kind !== 'paid' && state?.kind !== 'closed') {
        await voidReference(options, payment, reference, deadline, 'expire');
      } else if (state !== undefined && state.kind !== 'open') {
        await apply(options, payment, reference, state, deadline, { voided: false });
      }
    },
  };
  return sessions;
}

/**
 * @returns a refusal if there is no session to be had: the provider refused for good, or an earlier call failed and it
 *   answers that whenever it is asked again
 */
async function openAtProvider(
  options: PaymentSessionsOptions,
  payment: Payment,
  deadline: Deadline,
  place: Place | undefined,
): Promise<Session | Refusal> {
  const { paymentId, orderId, amount, expireTime } = payment;
  if (failpoints.on) await failpoints.hit('payment.before_session', infoOf(payment));
  try {
    const request = { paymentId, orderId, amount, expireTime };
    const provider = providerOf(options, payment);
    const session = await provider.openSession(request, toAnswer(deadline, openMs), place);
    if (failpoints.on) await failpoints.hit('payment.after_session', infoOf(payment));
    return session;
  } catch (error) {
    if (!isRefusedForGood(error) && !(error instanceof ReplayedRefusal)) throw error;
    options.log.warn({ err: error }, 'the provider opens no session for a payment');
    return error;
  }
}

/** The time that the provider has: at most `maxMs`, and less than the caller has. */
function toAnswer(deadline: Deadline, maxMs: number): Deadline {
  const leftMs = deadline.leftMs();
  return deadline.min(Math.min(maxMs, leftMs - Math.min(answerMs, leftMs / 4)));
}

/** What the buyer is told: the provider's word, unless it says nothing that is about his payment. */
function failureOf(refusal: Refusal): string {
  if (!(refusal instanceof ReplayedRefusal)) return refusal.message;
  return 'The payment provider could not open this payment: begin another payment';
}

/** A session that was opened for nobody; if it cannot be voided now, it does no harm. */
async function forgetSession(
  options: PaymentSessionsOptions,
  payment: Payment,
  reference: string,
  deadline: Deadline,
): Promise<void> {
  try {
    await voidReference(options, payment, reference, deadline, 'void');
  } catch (error) {
    const paymentId = String(payment.paymentId);
    options.log.warn({ paymentId, err: error }, 'a session that nobody has seen is not voided');
  }
}

async function voidReference(
  options: PaymentSessionsOptions,
  payment: Payment,
  reference: string,
  deadline: Deadline,
  purpose: ClosePurpose,
): Promise<VoidedPayment> {
  if (failpoints.on) await failpoints.hit('payment.before_close', infoOf(payment));
  const state = await closeAtProvider(options, payment, reference, deadline, purpose);
  if (failpoints.on) await failpoints.hit('payment.after_close', infoOf(payment));
  if (state.kind === 'open') {
    throw new Refusal('OUTCOME_UNKNOWN', 'The provider did not void the session');
  }
  if (state.kind === 'processing') return { payment, isProcessing: true };
  const after = await apply(options, payment, reference, state, deadline);
  return { payment: after, isProcessing: false };
}

/** A session that the provider will not void is asked for; one that it does not even know cannot be paid. */
async function closeAtProvider(
  options: PaymentSessionsOptions,
  payment: Payment,
  reference: string,
  deadline: Deadline,
  purpose: ClosePurpose,
): Promise<SessionState> {
  const provider = providerOf(options, payment);
  let refusal: Refusal;
  try {
    return await provider.closeSession(reference, toAnswer(deadline, voidMs), purpose);
  } catch (error) {
    if (!isRefusedForGood(error)) throw error;
    refusal = error;
  }
  const state = await readAtProvider(options, payment, reference, deadline, purpose);
  if (state !== undefined) return state;
  const paymentId = String(payment.paymentId);
  options.log.error({ paymentId, err: refusal }, 'the provider does not know a session of ours');
  return { kind: 'closed' };
}

/** @returns undefined if the provider does not know the session */
async function readAtProvider(
  options: PaymentSessionsOptions,
  payment: Payment,
  reference: string,
  deadline: Deadline,
  purpose: 'read' | ClosePurpose,
): Promise<SessionState | undefined> {
  try {
    const answered = toAnswer(deadline, readMs);
    return await providerOf(options, payment).readSession(reference, answered, purpose);
  } catch (error) {
    if (!isRefusedForGood(error)) throw error;
    return undefined;
  }
}

async function apply(
  { applySessionState }: PaymentSessionsOptions,
  { paymentId, provider }: Payment,
  reference: string | undefined,
  state: SessionState,
  deadline: Deadline,
  { voided } = { voided: true },
): Promise<Payment> {
  const report = { paymentId, provider, reference, state, voided };
  const reported = await applySessionState(report, deadline);
  if (reported === undefined) throw new Refusal('OUTCOME_UNKNOWN', 'The payment is gone');
  if (voided && canStillBePaid(reported.payment)) {
    throw new Refusal('OUTCOME_UNKNOWN', 'The payment has got a session meanwhile');
  }
  return reported.payment;
}

function providerOf({ providers }: PaymentSessionsOptions, payment: Payment): PacedProvider {
  const provider = providers.get(payment.provider);
  if (provider) return provider;
  throw new Refusal('DEPENDENCY_DOWN', `The provider ${payment.provider} is not configured`);
}

function isRefusedForGood(error: unknown): error is Refusal {
  return error instanceof Refusal && error.reason === 'INVALID_REQUEST';
}

function orderCloses(): Refusal {
  return new Refusal('ILLEGAL_TRANSITION', 'The order is being closed');
}

function infoOf({ paymentId, orderId }: Payment): { paymentId: bigint; orderId: bigint } {
  return { paymentId, orderId };
}
