import type { Deadline } from '../../../runtime/deadline.ts';
import type { Log } from '../../../runtime/log.ts';
import { Refusal } from '../../../runtime/refusals.ts';
import type { PaymentProvider, RefundOrder, RefundState, SessionState } from '../../provider.ts';
import { createSimulatorApi, type SimulatorApi } from './simulator-api.ts';
import { readRefundState, readSessionState } from './simulator-messages.ts';
import { readSimulatorEvent, readSimulatorWebhook } from './simulator-webhook.ts';

export interface SimulatorSettings {
  /** Where its API is, without a slash at the end. */
  readonly url: string;
  readonly apiKey: string;
  /** The keys that a webhook may be signed with; two while one is being replaced. */
  readonly webhookKeys: readonly string[];
}

/** The simulator as a payment provider: its HTTP API, and the signature of its webhooks. */
export function createSimulatorProvider(settings: SimulatorSettings, log: Log): PaymentProvider {
  const api = createSimulatorApi(settings, log);
  return {
    name: 'simulator',
    async openSession({ paymentId, orderId, amount, expireTime }, deadline) {
      const { body } = await api.call('POST', '/v1/sessions', deadline, {
        idempotencyKey: String(paymentId),
        body: {
          amount: { currencyCode: amount.currencyCode, minorUnits: String(amount.minorUnits) },
          metadata: { paymentId: String(paymentId), orderId: String(orderId) },
          expireTime: expireTime.toISOString(),
        },
      });
      const { id, url } = body as { id?: unknown; url?: unknown };
      if (typeof id !== 'string' || typeof url !== 'string') throw unreadable();
      return { reference: id, paymentUrl: url };
    },
    async readSession(reference, deadline) {
      const { body } = await api.call('GET', `/v1/sessions/${segment(reference)}`, deadline);
      return sessionState(body);
    },
    async closeSession(reference, deadline) {
      const path = `/v1/sessions/${segment(reference)}/close`;
      const { status, body } = await api.call('POST', path, deadline, { passStatuses: [409] });
      if (status === 409) return { kind: 'processing' };
      const state = sessionState(body);
      if (state.kind === 'paid' || state.kind === 'closed') return state;
      const text = 'the simulator did not close the session';
      throw new Refusal('OUTCOME_UNKNOWN', text, { answered: true });
    },
    refund: (order, deadline) => refund(api, order, deadline),
    async readRefund({ refundId }, deadline) {
      const path = `/v1/refunds/by-key/${refundId}`;
      const { status, body } = await api.call('GET', path, deadline, { passStatuses: [404] });
      return status === 404 ? undefined : refundState(body);
    },
    readWebhook: (body, headers, now) =>
      readSimulatorWebhook({ body, headers, now, keys: settings.webhookKeys }),
    readStored: readSimulatorEvent,
  };
}

async function refund(
  api: SimulatorApi,
  { refundId, reference, amount }: RefundOrder,
  deadline: Deadline,
): Promise<RefundState> {
  const { status, body } = await api.call('POST', '/v1/refunds', deadline, {
    idempotencyKey: String(refundId),
    // A conflict speaks of the money (not paid, not so much left): no repetition helps.
    passStatuses: [409],
    body: {
      session: reference,
      amount: { currencyCode: amount.currencyCode, minorUnits: String(amount.minorUnits) },
      metadata: { refundId: String(refundId) },
    },
  });
  if (status !== 409) return refundState(body);
  const { error } = body as { error?: { message?: unknown } };
  return { kind: 'failed', failure: String(error?.message ?? 'the simulator refused it') };
}

function sessionState(body: unknown): SessionState {
  const state = readSessionState(body);
  if (!state) throw unreadable();
  return state;
}

function refundState(body: unknown): RefundState {
  const state = readRefundState(body);
  if (!state) throw unreadable();
  return state;
}

/** What was asked may well have been done. */
function unreadable(): Refusal {
  const text = 'the simulator answered something unreadable';
  return new Refusal('OUTCOME_UNKNOWN', text, { answered: true });
}

/** A reference comes from our own table, but a path is no place to trust it. */
function segment(reference: string): string {
  return encodeURIComponent(reference);
}
