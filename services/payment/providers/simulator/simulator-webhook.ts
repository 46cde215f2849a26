import { createHmac, timingSafeEqual } from 'node:crypto';
import { invalidRequest, Refusal } from '../../../runtime/refusals.ts';
import type { ProviderEvent } from '../../provider.ts';
import { fieldsOf, readId, readRefundState, readSessionState } from './simulator-messages.ts';

const signatureHeader = 'sluice-simulator-signature';
/** A signature older than this may be a recording. */
const ageSecondsMax = 300;
/** How far the sender's clock may be ahead of ours. */
const aheadSecondsMax = 60;
/** A sender signs with one key, or two while they change. */
const signaturesMax = 4;

export interface WebhookInput {
  readonly body: Uint8Array;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly now: Date;
  readonly keys: readonly string[];
}

/**
 * Checks the signature and reads the event.
 *
 * @throws Refusal UNAUTHENTICATED (missing, malformed, false, old or future signature), INVALID_REQUEST (not readable)
 */
export function readSimulatorWebhook({ body, headers, now, keys }: WebhookInput): ProviderEvent {
  requireGenuine(headers[signatureHeader] ?? '', body, keys);
  requireFresh(headers[signatureHeader] ?? '', now);
  return readSimulatorEvent(body);
}

/** Reads the event of a genuine webhook. @throws Refusal INVALID_REQUEST (not readable) */
export function readSimulatorEvent(body: Uint8Array): ProviderEvent {
  let event: unknown;
  try {
    event = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    throw unreadable('is not JSON');
  }
  const { id, type, data } = fieldsOf(event);
  if (typeof id !== 'string' || id === '' || id.length > 128) throw unreadable('has no id');
  if (typeof type !== 'string' || type === '' || type.length > 128) throw unreadable('has no type');
  return { eventId: id, type, subject: subjectOf(type, data) };
}

function subjectOf(type: string, data: unknown): ProviderEvent['subject'] {
  const { session, refund } = fieldsOf(data);
  if (/^session\.(open|failed|processing|paid|closed)$/.test(type)) {
    const { id, metadata } = fieldsOf(session);
    const paymentId = readId(fieldsOf(metadata).paymentId);
    const state = readSessionState(session);
    if (typeof id !== 'string' || paymentId === undefined || !state) {
      throw unreadable('has no readable session');
    }
    return { kind: 'session', paymentId, reference: id, state };
  }
  if (/^refund\.(pending|succeeded|failed)$/.test(type)) {
    const refundId = readId(fieldsOf(fieldsOf(refund).metadata).refundId);
    const state = readRefundState(refund);
    if (refundId === undefined || !state) throw unreadable('has no readable refund');
    return { kind: 'refund', refundId, state };
  }
  return { kind: 'unknown' };
}

/** `t=1700000000,v1=<64 hex digits>`, with one v1 or more. */
const headerShape = /^t=(\d{1,12})((?:,v1=[0-9a-f]{64})+)$/;

function requireGenuine(header: string, body: Uint8Array, keys: readonly string[]): void {
  const [, time, list = ''] = headerShape.exec(header) ?? [];
  if (time === undefined)
    throw new Refusal('UNAUTHENTICATED', 'the signature is missing or malformed');
  const signatures = list.slice(',v1='.length).split(',v1=').slice(0, signaturesMax);
  let isGenuine = false;
  // Every pair is compared, whichever fits first: the time must not tell.
  for (const key of keys) {
    const expected = createHmac('sha256', key).update(`${time}.`).update(body).digest();
    for (const signature of signatures) {
      if (timingSafeEqual(expected, Buffer.from(signature, 'hex'))) isGenuine = true;
    }
  }
  if (!isGenuine) throw new Refusal('UNAUTHENTICATED', 'the signature is not genuine');
}

function requireFresh(header: string, now: Date): void {
  const ageSeconds = now.getTime() / 1_000 - Number(headerShape.exec(header)?.[1]);
  if (ageSeconds > ageSecondsMax) throw new Refusal('UNAUTHENTICATED', 'the signature is too old');
  if (ageSeconds < -aheadSecondsMax) {
    throw new Refusal('UNAUTHENTICATED', 'the signature is from the future');
  }
}

function unreadable(what: string): Refusal {
  return invalidRequest([{ field: 'body', description: what }]);
}
