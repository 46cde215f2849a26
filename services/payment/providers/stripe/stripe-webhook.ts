import Stripe from 'stripe';
import { invalidRequest, Refusal } from '../../../runtime/refusals.ts';
import type { ProviderEvent } from '../../provider.ts';
import { intentState, refundState } from './stripe-states.ts';

const signatureHeader = 'stripe-signature';
/** A signature older than this may be a recording. */
const ageSecondsMax = 300;
/** How far Stripe's clock may be ahead of ours; the package itself lets any future pass. */
const aheadSecondsMax = 60;

const intentEvents = new Set([
  'payment_intent.succeeded',
  'payment_intent.payment_failed',
  'payment_intent.canceled',
]);
const refundEvents = new Set([
  'refund.created',
  'refund.updated',
  'refund.failed',
  'charge.refund.updated',
]);

export interface WebhookInput {
  readonly webhooks: Stripe['webhooks'];
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
export function readStripeWebhook(input: WebhookInput): ProviderEvent {
  requireTime(input.headers[signatureHeader] ?? '', input.now);
  return eventOf(genuineEvent(input));
}

/** Reads the event of a genuine webhook. @throws Refusal INVALID_REQUEST (not readable) */
export function readStripeEvent(body: Uint8Array): ProviderEvent {
  let event: unknown;
  try {
    event = JSON.parse(Buffer.from(body).toString('utf8'));
  } catch {
    throw unreadable('is not JSON');
  }
  return eventOf(event);
}

function eventOf(event: unknown): ProviderEvent {
  // Signed is not the same as well-formed.
  const { id, type, data } = (event ?? {}) as {
    id?: unknown;
    type?: unknown;
    data?: { object?: unknown };
  };
  if (typeof id !== 'string' || id === '' || id.length > 128) throw unreadable('has no id');
  if (typeof type !== 'string' || type === '' || type.length > 128) throw unreadable('has no type');
  return { eventId: id, type, subject: subjectOf(type, data?.object) };
}

function subjectOf(type: string, object: unknown): ProviderEvent['subject'] {
  if (typeof object !== 'object' || object === null) return { kind: 'unknown' };
  if (intentEvents.has(type)) {
    const intent = object as Stripe.PaymentIntent;
    const paymentId = readId(intent.metadata?.payment_id);
    // The account may take other payments than ours.
    if (paymentId === undefined) return { kind: 'unknown' };
    if (typeof intent.id !== 'string') throw unreadable('has no readable payment intent');
    return {
      kind: 'session',
      paymentId,
      reference: intent.id,
      state: readState(() => intentState(intent)),
    };
  }
  if (refundEvents.has(type)) {
    const refund = object as Stripe.Refund;
    const refundId = readId(refund.metadata?.refund_id);
    if (refundId === undefined) return { kind: 'unknown' };
    if (typeof refund.id !== 'string') throw unreadable('has no readable refund');
    return { kind: 'refund', refundId, state: refundState(refund) };
  }
  return { kind: 'unknown' };
}

function readState<State>(read: () => State): State {
  try {
    return read();
  } catch {
    throw unreadable('has no readable state');
  }
}

/** The event, if one of the keys signed it. */
function genuineEvent({ webhooks, body, headers, now, keys }: WebhookInput): Stripe.Event {
  const header = headers[signatureHeader] ?? '';
  const receivedAt = now.getTime();
  let failure: unknown;
  for (const key of keys) {
    try {
      return webhooks.constructEvent(
        Buffer.from(body.buffer, body.byteOffset, body.byteLength),
        header,
        key,
        ageSecondsMax,
        undefined,
        receivedAt,
      );
    } catch (error) {
      // Genuine, and still not an event: the other key would not make it one.
      if (!(error instanceof Stripe.errors.StripeSignatureVerificationError)) {
        throw unreadable('is not an event of Stripe');
      }
      failure = error;
    }
  }
  throw new Refusal('UNAUTHENTICATED', 'the signature is not genuine, or too old', {
    cause: failure,
  });
}

/** Exactly one time, in digits: the package would take the last of several, and no number for no age. */
function requireTime(header: string, now: Date): void {
  const times = header.split(',').filter((part) => part.startsWith('t='));
  const time = times.length === 1 ? /^t=(\d{1,12})$/.exec(times[0] ?? '')?.[1] : undefined;
  if (time === undefined)
    throw new Refusal('UNAUTHENTICATED', 'the signature is missing or malformed');
  if (Number(time) - now.getTime() / 1_000 > aheadSecondsMax) {
    throw new Refusal('UNAUTHENTICATED', 'the signature is from the future');
  }
}

/** A positive int64 in text; undefined if it is none. */
function readId(value: unknown): bigint | undefined {
  if (typeof value !== 'string' || !/^[1-9]\d{0,18}$/.test(value)) return undefined;
  const id = BigInt(value);
  return id < 2n ** 63n ? id : undefined;
}

function unreadable(what: string): Refusal {
  return invalidRequest([{ field: 'body', description: what }]);
}
