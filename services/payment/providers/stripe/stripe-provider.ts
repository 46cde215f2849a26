import { Agent } from 'node:http';
import { Agent as SecureAgent } from 'node:https';
import Stripe from 'stripe';
import type { Deadline } from '../../../runtime/deadline.ts';
import type { Log } from '../../../runtime/log.ts';
import { Refusal } from '../../../runtime/refusals.ts';
import type {
  PaymentProvider,
  RefundOrder,
  RefundState,
  SessionRequest,
  SessionState,
} from '../../provider.ts';
import { toStripeAmount } from './stripe-amounts.ts';
import { createStripeCalls, isRefusedForGood, type StripeCalls } from './stripe-calls.ts';
import { intentState, refundState } from './stripe-states.ts';
import { readStripeEvent, readStripeWebhook } from './stripe-webhook.ts';

export interface StripeSettings {
  /** Secret key of the account. */
  readonly apiKey: string;
  /** Where the API is; another place than Stripe's only in tests. */
  readonly apiUrl: string;
  /** The page with Stripe's payment element; it gets the client secret in its fragment. */
  readonly pageUrl: string;
  /** Signing secrets of the webhook endpoint; two while one is being replaced. */
  readonly webhookKeys: readonly string[];
}

/** Connections to the API at most; what is more waits for one within its deadline. */
const connectionsMax = 64;
/** Refunds of one payment that are looked through, a page of 100 at a time. */
const refundsReadMax = 500;

/**
 * Stripe as a payment provider: a session is a PaymentIntent. Stripe keeps idempotency keys for at least a day, longer
 * than any order waits to be paid; a refund may wait longer, so its caller asks with `readRefund` first.
 */
export function createStripeProvider(settings: StripeSettings, log: Log): PaymentProvider {
  const stripe = createStripeClient(settings);
  const calls = createStripeCalls(log);
  return {
    name: 'stripe',
    openSession: (request, deadline) =>
      openSession(request, deadline, { stripe, calls, pageUrl: settings.pageUrl }),
    readSession: (reference, deadline) => readSession(reference, deadline, { stripe, calls }),
    async closeSession(reference, deadline) {
      const state = await cancel(reference, deadline, { stripe, calls });
      if (state.kind !== 'open' && state.kind !== 'failed') return state;
      const text = `Stripe did not close the payment, which is ${state.kind}`;
      throw new Refusal('OUTCOME_UNKNOWN', text, { answered: true });
    },
    refund: (order, deadline) => refund(order, deadline, { stripe, calls }),
    readRefund: (order, deadline) => readRefund(order, deadline, { stripe, calls }),
    readWebhook: (body, headers, now) =>
      readStripeWebhook({
        webhooks: stripe.webhooks,
        body,
        headers,
        now,
        keys: settings.webhookKeys,
      }),
    readStored: readStripeEvent,
  };
}

interface Api {
  readonly stripe: Stripe;
  readonly calls: StripeCalls;
}

function createStripeClient({ apiKey, apiUrl }: StripeSettings): Stripe {
  const { protocol, hostname, port } = new URL(apiUrl);
  const isSecure = protocol === 'https:';
  const agent = { keepAlive: true, maxSockets: connectionsMax };
  return new Stripe(apiKey, {
    // The caller decides about repetitions. (The package still repeats once when a kept connection turns out closed,
    // which the idempotency keys make harmless.)
    maxNetworkRetries: 0,
    telemetry: false,
    protocol: isSecure ? 'https' : 'http',
    host: hostname,
    port: port || (isSecure ? 443 : 80),
    httpClient: Stripe.createNodeHttpClient(isSecure ? new SecureAgent(agent) : new Agent(agent)),
  });
}

async function openSession(
  { paymentId, orderId, amount }: SessionRequest,
  deadline: Deadline,
  { stripe, calls, pageUrl }: Api & { pageUrl: string },
): Promise<{ reference: string; paymentUrl: string }> {
  const wanted = {
    ...toStripeAmount(amount),
    automatic_payment_methods: { enabled: true },
    metadata: { payment_id: String(paymentId), order_id: String(orderId) },
  };
  const intent = await calls.run(deadline, (timeout) =>
    stripe.paymentIntents.create(wanted, { timeout, idempotencyKey: `payment-${paymentId}` }),
  );
  if (!intent.client_secret) {
    const text = 'Stripe sent no client secret';
    throw new Refusal('OUTCOME_UNKNOWN', text, { answered: true });
  }
  // A fragment stays in the browser: no server, proxy or log sees the secret.
  return { reference: intent.id, paymentUrl: `${pageUrl}#${intent.client_secret}` };
}

async function readSession(
  reference: string,
  deadline: Deadline,
  { stripe, calls }: Api,
): Promise<SessionState> {
  return await calls.run(deadline, async (timeout) =>
    intentState(await stripe.paymentIntents.retrieve(reference, {}, { timeout })),
  );
}

async function cancel(reference: string, deadline: Deadline, api: Api): Promise<SessionState> {
  const { stripe, calls } = api;
  try {
    return await calls.run(deadline, async (timeout) =>
      intentState(await stripe.paymentIntents.cancel(reference, {}, { timeout })),
    );
  } catch (error) {
    // Paid or cancelled before: which, the intent itself says.
    if (isRefusedForGood(error)) return await readSession(reference, deadline, api);
    throw error;
  }
}

async function refund(order: RefundOrder, deadline: Deadline, api: Api): Promise<RefundState> {
  const { refundId, reference, amount } = order;
  const wanted = {
    payment_intent: reference,
    amount: toStripeAmount(amount).amount,
    metadata: { refund_id: String(refundId) },
  };
  try {
    const made = await api.calls.run(deadline, (timeout) =>
      api.stripe.refunds.create(wanted, { timeout, idempotencyKey: `refund-${refundId}` }),
    );
    return refundState(made);
  } catch (error) {
    if (!isRefusedForGood(error)) throw error;
    // "Already refunded" may speak of this very refund, whose key Stripe has forgotten.
    const known = await readRefund(order, deadline, api);
    return known ?? { kind: 'failed', failure: error.message };
  }
}

async function readRefund(
  { refundId, reference }: RefundOrder,
  deadline: Deadline,
  { stripe, calls }: Api,
): Promise<RefundState | undefined> {
  let startingAfter: string | undefined;
  for (let read = 0; read < refundsReadMax; read += 100) {
    const after = startingAfter;
    const page = await calls.run(deadline, (timeout) =>
      stripe.refunds.list(
        { payment_intent: reference, limit: 100, ...(after ? { starting_after: after } : {}) },
        { timeout },
      ),
    );
    const found = page.data.find(({ metadata }) => metadata?.refund_id === String(refundId));
    if (found) return refundState(found);
    startingAfter = page.data.at(-1)?.id;
    if (!page.has_more || startingAfter === undefined) return undefined;
  }
  const text = 'the payment has more refunds than are looked through';
  throw new Refusal('OUTCOME_UNKNOWN', text, { answered: true });
}
