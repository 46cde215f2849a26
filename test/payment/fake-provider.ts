import type { Money } from '../../gen/sluice/stock/v1/money.ts';
import type {
  PaymentProvider,
  ProviderEvent,
  RefundOrder,
  RefundState,
  SessionRequest,
  SessionState,
} from '../../services/payment/provider.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

interface FakeSession {
  readonly reference: string;
  readonly request: SessionRequest;
  state: SessionState;
}

interface FakeRefund {
  readonly order: RefundOrder;
  state: RefundState;
}

/** The far end of a provider, in memory: what it did with the money is what tests count. */
export interface FakeProvider extends PaymentProvider {
  /** By payment id, as the idempotency key says. */
  readonly sessions: Map<bigint, FakeSession>;
  /** By refund id. */
  readonly refunds: Map<bigint, FakeRefund>;
  /** How often each method was called. */
  readonly calls: Map<string, number>;
  /** What a new refund becomes; default succeeded. */
  refundAs: RefundState['kind'];
  /** Runs before the effect; throws to refuse the call. */
  before: (method: string, id: bigint | string) => void | Promise<void>;
  /** Runs after the effect; throws to lose the answer. */
  after: (method: string, id: bigint | string) => void | Promise<void>;
  /** The buyer pays at the provider's page; answers the event that tells it. */
  pay(paymentId: bigint, captured?: Money): ProviderEvent;
  fail(paymentId: bigint, failure?: string): ProviderEvent;
}

export const lost = (): never => {
  throw new Refusal('OUTCOME_UNKNOWN', 'the answer was lost');
};

export function createFakeProvider(): FakeProvider {
  const sessions = new Map<bigint, FakeSession>();
  const refunds = new Map<bigint, FakeRefund>();
  const calls = new Map<string, number>();
  let events = 0;

  async function call<Result>(method: string, id: bigint | string, effect: () => Result) {
    calls.set(method, (calls.get(method) ?? 0) + 1);
    await fake.before(method, id);
    const result = effect();
    await fake.after(method, id);
    return result;
  }
  const byReference = (reference: string): FakeSession => {
    const found = [...sessions.values()].find((session) => session.reference === reference);
    if (!found) throw new Refusal('INVALID_REQUEST', 'no such session');
    return found;
  };
  const eventOf = (paymentId: bigint, type: string): ProviderEvent => {
    const { reference, state } = sessions.get(paymentId) as FakeSession;
    events += 1;
    const subject = { kind: 'session', paymentId, reference, state } as const;
    return { eventId: `evt_${paymentId}_${events}`, type, subject };
  };

  const fake: FakeProvider = {
    ...{ name: 'simulator', sessions, refunds, calls, refundAs: 'succeeded' },
    before: () => undefined,
    after: () => undefined,
    openSession: (request) =>
      call('openSession', request.paymentId, () => {
        const { paymentId } = request;
        const session = sessions.get(paymentId) ?? {
          ...{ reference: `ses_${paymentId}`, request, state: { kind: 'open' } as const },
        };
        sessions.set(paymentId, session);
        return { reference: session.reference, paymentUrl: `http://pay.test/${paymentId}` };
      }),
    readSession: (reference) => call('readSession', reference, () => byReference(reference).state),
    closeSession: (reference) =>
      call('closeSession', reference, () => {
        const session = byReference(reference);
        const { kind } = session.state;
        if (kind !== 'paid' && kind !== 'processing') session.state = { kind: 'closed' };
        return session.state;
      }),
    refund: (order) =>
      call('refund', order.refundId, () => {
        const known = refunds.get(order.refundId);
        if (known) return known.state;
        const kind = fake.refundAs;
        const state: RefundState =
          kind === 'failed'
            ? { kind, failure: 'the card is gone' }
            : { kind, reference: `ref_${order.refundId}` };
        refunds.set(order.refundId, { order, state });
        return state;
      }),
    readRefund: (order) =>
      call('readRefund', order.refundId, () => refunds.get(order.refundId)?.state),
    readWebhook(body, headers) {
      if (headers.signature !== 'genuine') throw new Refusal('UNAUTHENTICATED', 'not signed');
      return decodeEvent(Buffer.from(body).toString());
    },
    readStored: (body) => decodeEvent(Buffer.from(body).toString()),
    pay(paymentId, captured) {
      const session = sessions.get(paymentId) as FakeSession;
      session.state = { kind: 'paid', captured: captured ?? session.request.amount };
      return eventOf(paymentId, 'session.paid');
    },
    fail(paymentId, failure = 'card declined') {
      (sessions.get(paymentId) as FakeSession).state = { kind: 'failed', failure };
      return eventOf(paymentId, 'session.failed');
    },
  };
  return fake;
}

/** An event as the fake's webhooks carry it. */
export function encodeEvent(event: ProviderEvent): Buffer {
  return Buffer.from(
    JSON.stringify(event, (_, value) => (typeof value === 'bigint' ? `${value}n` : value)),
  );
}

function decodeEvent(text: string): ProviderEvent {
  return JSON.parse(text, (_, value) =>
    typeof value === 'string' && /^-?\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value,
  );
}
