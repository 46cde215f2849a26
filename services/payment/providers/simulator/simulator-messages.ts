import type { Money } from '../../../../gen/sluice/stock/v1/money.ts';
import type { RefundState, SessionState } from '../../provider.ts';

/** The state in a session, of an answer or a webhook; undefined if it is not readable. */
export function readSessionState(session: unknown): SessionState | undefined {
  const { status, captured, failure } = fieldsOf(session);
  if (status === 'open' || status === 'processing' || status === 'closed') return { kind: status };
  if (status === 'failed') return { kind: 'failed', failure: textOf(failure) };
  const money = status === 'paid' ? readMoney(captured) : undefined;
  return money && { kind: 'paid', captured: money };
}

/** The state in a refund; undefined if it is not readable. */
export function readRefundState(refund: unknown): RefundState | undefined {
  const { id, status, failure } = fieldsOf(refund);
  if (typeof id !== 'string') return undefined;
  if (status === 'failed') return { kind: 'failed', failure: textOf(failure) };
  if (status === 'pending' || status === 'succeeded') return { kind: status, reference: id };
  return undefined;
}

/** A positive int64 in text; undefined if it is none. */
export function readId(value: unknown): bigint | undefined {
  if (typeof value !== 'string' || !/^[1-9]\d{0,18}$/.test(value)) return undefined;
  const id = BigInt(value);
  return id < 2n ** 63n ? id : undefined;
}

/** The fields of an object; none if it is not one. */
export function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function readMoney(value: unknown): Money | undefined {
  const { currencyCode, minorUnits } = fieldsOf(value);
  const units = readId(minorUnits);
  if (typeof currencyCode !== 'string' || units === undefined) return undefined;
  return { currencyCode, minorUnits: units };
}

function textOf(failure: unknown): string {
  return typeof failure === 'string' && failure !== '' ? failure : 'no reason was given';
}
