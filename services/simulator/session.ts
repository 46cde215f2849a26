/** An exact amount, as JSON has it. */
export interface Amount {
  /** ISO 4217. */
  readonly currencyCode: string;
  readonly minorUnits: bigint;
}

/**
 * `failed` can still be paid; `processing`, a debit that the bank has not decided, becomes paid or failed by itself and
 * cannot be closed meanwhile; `paid` and `closed` are ends.
 */
export type SessionStatus = 'open' | 'failed' | 'processing' | 'paid' | 'closed';

/** A place where one payment is made. */
export interface Session {
  readonly sessionId: string;
  /** What the merchant calls it; its number for the payment, and for the order that it pays. */
  readonly paymentId: string;
  readonly orderId: string;
  readonly amount: Amount;
  readonly status: SessionStatus;
  /** Why the last attempt failed; empty if none did. */
  readonly failure: string;
  /** What was really taken, once it is paid. */
  readonly captured: Amount | undefined;
  /** When a debit in processing is decided, in milliseconds since 1970; undefined if there is none. */
  readonly settleMs: number | undefined;
  readonly createMs: number;
  /** Milliseconds since 1970; from then on it is closed. */
  readonly expireMs: number;
}

/** The session as it is at a moment: one that ran out is closed, although nobody has noted it yet. */
export function sessionAt(session: Session, nowMs: number): Session {
  const isOver = isPayable(session) && nowMs >= session.expireMs;
  return isOver ? { ...session, status: 'closed' } : session;
}

/** Whether an attempt to pay may be made. */
export function isPayable({ status }: Session): boolean {
  return status === 'open' || status === 'failed';
}

/** The session as the API and the webhooks show it. */
export function sessionJson(session: Session, pageUrl: string): Readonly<Record<string, unknown>> {
  const { sessionId, paymentId, orderId, amount, status, failure, captured } = session;
  return {
    id: sessionId,
    status,
    amount: amountJson(amount),
    ...(captured ? { captured: amountJson(captured) } : {}),
    ...(failure === '' ? {} : { failure }),
    metadata: { paymentId, orderId },
    url: `${pageUrl}/pay/${sessionId}`,
    createTime: new Date(session.createMs).toISOString(),
    expireTime: new Date(session.expireMs).toISOString(),
  };
}

export function amountJson({ currencyCode, minorUnits }: Amount): Readonly<Record<string, string>> {
  return { currencyCode, minorUnits: String(minorUnits) };
}
