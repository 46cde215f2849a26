import { ApiError } from './api-error.ts';
import type { Database } from './database.ts';
import type { KnobPanel } from './knobs.ts';
import { newId } from './new-id.ts';
import { type Amount, isPayable, type Session, sessionAt } from './session.ts';
import type { SessionStore } from './session-store.ts';
import type { WebhookQueue } from './webhook-queue.ts';

export interface SessionsOptions {
  readonly database: Database;
  readonly store: SessionStore;
  readonly webhooks: WebhookQueue;
  readonly knobs: KnobPanel;
  /** Milliseconds since 1970. */
  readonly now: () => number;
}

export type NewSession = Pick<Session, 'paymentId' | 'orderId' | 'amount' | 'expireMs'>;

/** What can be done with a session. Every change and its webhook are one transaction. */
export interface Sessions {
  /**
   * Opens a session; under a key that was used before, answers the one of then. Its end may differ: a repetition often
   * computes it anew. @throws ApiError idempotency_error if anything else differs
   */
  open(wanted: NewSession, idempotencyKey: string): Session;
  /** @throws ApiError not_found */
  read(sessionId: string): Session;
  /**
   * Pays it, also when it is closed if a knob says so; one that is paid already, or in processing, stays as it is.
   *
   * @throws ApiError session_closed, not_found
   */
  pay(sessionId: string): Session;
  /** An attempt that fails. @throws ApiError session_closed, not_found */
  fail(sessionId: string, failure: string): Session;
  /** Voids it, unless it was paid. @throws ApiError session_processing (neither now), not_found */
  close(sessionId: string): Session;
  /** Notes sessions that ran out, at most `max`, and answers how many. */
  closeOverdue(max: number): number;
  /** Pays, or fails, debits that are decided by now, at most `max`, and answers how many. */
  settleDebits(max: number): number;
  /** Forgets sessions, with their refunds, that ended long ago, at most `max`, and answers how many. */
  forgetOld(max: number): number;
}

/** A session that ended this long ago is forgotten, and cannot be refunded any more. */
const keptMs = 30 * 86_400_000;

export function createSessions(options: SessionsOptions): Sessions {
  const { database, store, webhooks, knobs, now } = options;

  function find(sessionId: string): Session {
    const session = store.find(sessionId);
    if (!session) throw new ApiError(404, 'not_found', 'there is no such session');
    return sessionAt(session, now());
  }

  function change(session: Session, changes: Partial<Session>): Session {
    const changed = { ...session, ...changes };
    store.update(changed);
    webhooks.addSession(changed, now());
    return changed;
  }

  /** @throws ApiError session_closed */
  function requireOpen(session: Session): void {
    if (isPayable(session)) return;
    throw new ApiError(409, 'session_closed', `the session is ${session.status}`);
  }

  return {
    open(wanted, idempotencyKey) {
      const known = store.findByKey(idempotencyKey);
      if (!known) {
        const session: Session = {
          ...wanted,
          sessionId: newId('ses'),
          status: 'open',
          failure: '',
          captured: undefined,
          settleMs: undefined,
          createMs: now(),
        };
        store.insert(session, idempotencyKey);
        return sessionAt(session, now());
      }
      const isSame =
        known.paymentId === wanted.paymentId &&
        known.orderId === wanted.orderId &&
        isSameAmount(known.amount, wanted.amount);
      if (isSame) return sessionAt(known, now());
      throw new ApiError(422, 'idempotency_error', 'the key was used with other parameters');
    },
    read: find,
    pay: (sessionId) =>
      database.transaction(() => {
        const session = find(sessionId);
        if (session.status === 'paid' || session.status === 'processing') return session;
        const { payAfterClose, processingMs } = knobs.now;
        if (!payAfterClose) requireOpen(session);
        if (processingMs > 0) {
          const settleMs = now() + processingMs;
          return change(session, { status: 'processing', failure: '', settleMs });
        }
        const captured = capturedOf(session.amount, knobs);
        return change(session, { status: 'paid', failure: '', captured });
      }),
    fail: (sessionId, failure) =>
      database.transaction(() => {
        const session = find(sessionId);
        // Also where a knob lets late payments through: a voided session must not be open again when the knob is back.
        requireOpen(session);
        return change(session, { status: 'failed', failure });
      }),
    close: (sessionId) =>
      database.transaction(() => {
        const session = find(sessionId);
        if (session.status === 'processing') {
          throw new ApiError(409, 'session_processing', 'its payment is being processed');
        }
        return isPayable(session) ? change(session, { status: 'closed' }) : session;
      }),
    closeOverdue: (max) =>
      database.transaction(() => {
        const overdue = store.overdue(now(), max);
        for (const session of overdue) change(session, { status: 'closed' });
        return overdue.length;
      }),
    settleDebits: (max) =>
      database.transaction(() => {
        const decided = store.decidedDebits(now(), max);
        for (const session of decided) {
          const outcome: Partial<Session> = knobs.now.refuseDebits
            ? { status: 'failed', failure: 'the bank refused the debit' }
            : { status: 'paid', captured: capturedOf(session.amount, knobs) };
          change(session, { ...outcome, settleMs: undefined });
        }
        return decided.length;
      }),
    forgetOld: (max) => database.transaction(() => store.deleteEnded(now() - keptMs, max)),
  };
}

function isSameAmount(one: Amount, other: Amount): boolean {
  return one.currencyCode === other.currencyCode && one.minorUnits === other.minorUnits;
}

/** What a payment takes: what was asked for, unless the knobs say otherwise; never nothing. */
function capturedOf({ currencyCode, minorUnits }: Amount, knobs: KnobPanel): Amount {
  const { wrongAmount, wrongCurrency } = knobs.now;
  const taken = minorUnits + BigInt(wrongAmount);
  return { currencyCode: wrongCurrency || currencyCode, minorUnits: taken > 0n ? taken : 1n };
}
