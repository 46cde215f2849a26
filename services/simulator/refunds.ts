import { ApiError } from './api-error.ts';
import type { Database } from './database.ts';
import type { KnobPanel } from './knobs.ts';
import { newId } from './new-id.ts';
import type { Refund } from './refund.ts';
import type { RefundStore } from './refund-store.ts';
import type { Amount } from './session.ts';
import type { Sessions } from './sessions.ts';
import type { WebhookQueue } from './webhook-queue.ts';

export interface RefundsOptions {
  readonly database: Database;
  readonly store: RefundStore;
  readonly sessions: Sessions;
  readonly webhooks: WebhookQueue;
  readonly knobs: KnobPanel;
  readonly now: () => number;
}

export interface NewRefund {
  readonly sessionId: string;
  readonly refundId: string;
  readonly amount: Amount;
}

/** Giving money back. */
export interface Refunds {
  /**
   * Gives back part or all of what a session captured; under a key used before, answers the refund of then.
   *
   * @throws ApiError idempotency_error, not_found, refund_not_paid, refund_too_large, refund_currency
   */
  create(wanted: NewRefund, idempotencyKey: string): Refund;
  /** @throws ApiError not_found */
  readByKey(idempotencyKey: string): Refund;
  /** Settles pending refunds whose time has come, at most `max`, and answers how many. */
  settleDue(max: number): number;
}

const refusal = 'the bank refused it';

export function createRefunds(options: RefundsOptions): Refunds {
  const { database, store, sessions, webhooks, knobs, now } = options;

  function insert(wanted: NewRefund, idempotencyKey: string): Refund {
    requireLeft(wanted, sessions, store);
    const { refuseRefunds, refundsPendingMs } = knobs.now;
    const settled = refuseRefunds
      ? ({ status: 'failed', failure: refusal } as const)
      : ({ status: 'succeeded', failure: '' } as const);
    const refund: Refund = {
      ...wanted,
      reference: newId('ref'),
      ...(refundsPendingMs > 0 ? { status: 'pending', failure: '' } : settled),
      createMs: now(),
      settleMs: now() + refundsPendingMs,
    };
    store.insert(refund, idempotencyKey);
    webhooks.addRefund(refund, now());
    return refund;
  }

  return {
    create: (wanted, idempotencyKey) =>
      database.transaction(() => {
        const known = store.findByKey(idempotencyKey);
        if (!known) return insert(wanted, idempotencyKey);
        const isSame =
          known.sessionId === wanted.sessionId &&
          known.refundId === wanted.refundId &&
          known.amount.currencyCode === wanted.amount.currencyCode &&
          known.amount.minorUnits === wanted.amount.minorUnits;
        if (isSame) return known;
        throw new ApiError(422, 'idempotency_error', 'the key was used with other parameters');
      }),
    readByKey(idempotencyKey) {
      const refund = store.findByKey(idempotencyKey);
      if (!refund) throw new ApiError(404, 'not_found', 'there is no such refund');
      return refund;
    },
    settleDue: (max) =>
      database.transaction(() => {
        const due = store.due(now(), max);
        for (const refund of due) {
          const isRefused = knobs.now.refuseRefunds;
          const settled: Refund = {
            ...refund,
            status: isRefused ? 'failed' : 'succeeded',
            failure: isRefused ? refusal : '',
          };
          store.settle(settled);
          webhooks.addRefund(settled, now());
        }
        return due.length;
      }),
  };
}

/** @throws ApiError if so much is not left of what was captured; failed refunds took nothing */
function requireLeft(
  { sessionId, amount }: NewRefund,
  sessions: Sessions,
  store: RefundStore,
): void {
  const { captured } = sessions.read(sessionId);
  if (!captured) throw new ApiError(409, 'refund_not_paid', 'the session was not paid');
  if (captured.currencyCode !== amount.currencyCode) {
    throw new ApiError(409, 'refund_currency', `it was paid in ${captured.currencyCode}`);
  }
  const refunded = store
    .ofSession(sessionId)
    .filter(({ status }) => status !== 'failed')
    .reduce((sum, refund) => sum + refund.amount.minorUnits, 0n);
  if (refunded + amount.minorUnits <= captured.minorUnits) return;
  const left = captured.minorUnits - refunded;
  throw new ApiError(409, 'refund_too_large', `only ${left} minor units are left to refund`);
}
