import { type Amount, amountJson } from './session.ts';

export type RefundStatus = 'pending' | 'succeeded' | 'failed';

/** Money on its way back. */
export interface Refund {
  readonly reference: string;
  readonly sessionId: string;
  /** What the merchant calls it. */
  readonly refundId: string;
  readonly amount: Amount;
  readonly status: RefundStatus;
  readonly failure: string;
  readonly createMs: number;
  /** When a pending one is settled, in milliseconds since 1970. */
  readonly settleMs: number;
}

/** The refund as the API and the webhooks show it. */
export function refundJson(refund: Refund): Readonly<Record<string, unknown>> {
  const { reference, sessionId, refundId, amount, status, failure, createMs } = refund;
  return {
    id: reference,
    session: sessionId,
    status,
    amount: amountJson(amount),
    ...(failure === '' ? {} : { failure }),
    metadata: { refundId },
    createTime: new Date(createMs).toISOString(),
  };
}
