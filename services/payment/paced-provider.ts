import type { Counter, Gauge } from 'prom-client';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import { CallPlaces, type Place } from './call-places.ts';
import { createPacedCalls } from './paced-calls.ts';
import type {
  PaymentProvider,
  RefundOrder,
  RefundState,
  Session,
  SessionRequest,
  SessionState,
} from './provider.ts';
import { createProviderCircuit, type ProviderCircuit } from './provider-circuit.ts';
import { ProviderPace } from './provider-pace.ts';
import { isTooFast } from './provider-refusal.ts';

/**
 * What a call is for. Each has a circuit and a pace of its own, so that none is held up by what another meets.
 * `open`: a buyer waits to pay. `reopen`: an opening that was cut short. `void`: somebody waits for an order to be closed.
 * `expire`: nobody waits for it. `read`: a silent session. `refund`: money goes back, or is asked for.
 */
export type CallPurpose = 'open' | 'reopen' | 'void' | 'expire' | 'read' | 'refund';

export interface PacedProviderOptions {
  readonly log: Log;
  /** Polls started in a second at most, and refunds. */
  readonly callsPerSecond: number;
  /** Sessions opened in a second at most, and voided, for buyers and for time; a provider may take fewer. */
  readonly sessionsPerSecond: number;
  /** Sessions being opened at once at most, and being voided, for buyers and for time. */
  readonly sessionsInFlightMax: number;
  readonly metrics: {
    readonly breakerState: Gauge<'name'>;
    readonly providerPace: Gauge<'purpose'>;
    readonly providerTurnedAway: Counter<'purpose'>;
  };
}

/** A provider that is called no faster than it may be, and not at all while its circuit is open. */
export interface PacedProvider
  extends Pick<PaymentProvider, 'name' | 'readWebhook' | 'readStored'> {
  /**
   * A place for a buyer's opening, taken before anything is done for it. To be left in the end.
   *
   * @throws Refusal OVERLOADED or DEPENDENCY_DOWN at once, or nearly, if the provider takes no more openings now
   */
  admit(deadline: Deadline): Promise<Place>;
  /** @param place the buyer's, or none to open one that was cut short */
  openSession(request: SessionRequest, deadline: Deadline, place?: Place): Promise<Session>;
  closeSession(
    reference: string,
    deadline: Deadline,
    purpose: 'void' | 'expire',
  ): Promise<SessionState>;
  readSession(
    reference: string,
    deadline: Deadline,
    purpose: 'read' | 'void' | 'expire',
  ): Promise<SessionState>;
  refund(order: RefundOrder, deadline: Deadline): Promise<RefundState>;
  readRefund(order: RefundOrder, deadline: Deadline): Promise<RefundState | undefined>;
  close(): Promise<void>;
}

/** How long who waits for an answer may wait for a place: enough for bursts to even out, too little to queue. */
const openWaitMsMax = 300;
const voidWaitMsMax = 1_000;
const expireWaitMsMax = 3_000;
/** Openings that were cut short must not take what the provider takes from the buyers. */
const reopensPerSecond = 5;

/** Stands before a provider: a circuit and a pace for each purpose, and the caller's deadline as the only timeout. */
export function createPacedProvider(
  provider: PaymentProvider,
  options: PacedProviderOptions,
): PacedProvider {
  const { callsPerSecond, sessionsPerSecond } = options;
  const ways = {
    open: createWay(provider.name, 'open', sessionsPerSecond, options),
    reopen: createWay(provider.name, 'reopen', reopensPerSecond, options),
    void: createWay(provider.name, 'void', sessionsPerSecond, options),
    expire: createWay(provider.name, 'expire', sessionsPerSecond, options),
    read: createWay(provider.name, 'read', callsPerSecond, options),
    refund: createWay(provider.name, 'refund', callsPerSecond, options),
  } satisfies Record<CallPurpose, Way>;
  const { providerPace } = options.metrics;
  const showPaces = (): void => {
    for (const [purpose, { pace }] of Object.entries(ways)) {
      providerPace.set({ purpose: purpose as CallPurpose }, pace.perSecond);
    }
  };
  Object.assign(providerPace, { collect: showPaces });
  const inFlightMax = options.sessionsInFlightMax;
  const places = {
    open: new CallPlaces({ pace: ways.open.pace, inFlightMax, waitMsMax: openWaitMsMax }),
    void: new CallPlaces({ pace: ways.void.pace, inFlightMax, waitMsMax: voidWaitMsMax }),
    expire: new CallPlaces({ pace: ways.expire.pace, inFlightMax, waitMsMax: expireWaitMsMax }),
  };
  const paced = {
    reopen: createPacedCalls(ways.reopen.pace),
    read: createPacedCalls(ways.read.pace),
    refund: createPacedCalls(ways.refund.pace),
  };

  /** Waits for its turn, then goes through the circuit. */
  async function go<Result>(
    purpose: Exclude<CallPurpose, 'open'>,
    subject: string,
    call: () => Promise<Result>,
    deadline: Deadline,
  ): Promise<Result> {
    const run = (): Promise<Result> => ways[purpose].run(subject, call, deadline);
    if (purpose !== 'void' && purpose !== 'expire') return await paced[purpose].run(run, deadline);
    const place = await places[purpose].take(deadline);
    place.use();
    return await run().finally(place.leave);
  }

  return {
    name: provider.name,
    async admit(deadline) {
      ways.open.requireClosed();
      return await places.open.take(deadline);
    },
    async openSession(request, deadline, place) {
      const subject = String(request.paymentId);
      const call = (): Promise<Session> => provider.openSession(request, deadline);
      if (place === undefined) return await go('reopen', subject, call, deadline);
      place.use();
      return await ways.open.run(subject, call, deadline);
    },
    closeSession: (reference, deadline, purpose) =>
      go(purpose, reference, () => provider.closeSession(reference, deadline), deadline),
    readSession: (reference, deadline, purpose) =>
      go(purpose, reference, () => provider.readSession(reference, deadline), deadline),
    refund: (order, deadline) =>
      go('refund', String(order.refundId), () => provider.refund(order, deadline), deadline),
    readRefund: (order, deadline) =>
      go('refund', String(order.refundId), () => provider.readRefund(order, deadline), deadline),
    readWebhook: (body, headers, now) => provider.readWebhook(body, headers, now),
    readStored: (body) => provider.readStored(body),
    async close() {
      for (const each of Object.values(places)) each.close();
      await Promise.all(Object.values(paced).map((each) => each.close()));
      for (const way of Object.values(ways)) way.stop();
    },
  };
}

/** The circuit and the pace of one purpose. */
interface Way extends ProviderCircuit {
  readonly pace: ProviderPace;
  /** @throws Refusal DEPENDENCY_DOWN while the circuit is open */
  requireClosed(): void;
}

function createWay(
  name: string,
  purpose: CallPurpose,
  perSecondMax: number,
  { log, metrics }: PacedProviderOptions,
): Way {
  const pace = new ProviderPace(perSecondMax);
  const { breakerState, providerTurnedAway } = metrics;
  const circuitName = `${name}.${purpose}`;
  const circuit = createProviderCircuit({ name: circuitName, log, state: breakerState });
  return {
    pace,
    run(subject, call, deadline) {
      const sentAtMs = performance.now();
      const asked = async () => {
        try {
          const result = await call();
          pace.taken();
          return result;
        } catch (error) {
          if (!isTooFast(error)) {
            pace.taken();
            throw error;
          }
          providerTurnedAway.inc({ purpose });
          if (pace.turnedAway(sentAtMs, error.retryAfterMs)) {
            const { perSecond } = pace;
            log.warn({ purpose, perSecond }, 'the provider turns calls away: fewer are sent');
          }
          throw turnedAway(error, pace);
        }
      };
      return circuit.run(subject, asked, deadline);
    },
    requireClosed() {
      if (circuit.open)
        throw new Refusal('DEPENDENCY_DOWN', `The circuit of ${circuitName} is open`);
    },
    get open() {
      return circuit.open;
    },
    stop: () => circuit.stop(),
  };
}

const retryAfterMsMin = 1_000;

/** What the caller is told: nothing was done, and when it may help to come again. */
function turnedAway(cause: Refusal, pace: ProviderPace): Refusal {
  const retryAfterMs = Math.max(retryAfterMsMin, pace.pausedMs);
  return new Refusal('OVERLOADED', cause.message, { answered: true, retryAfterMs, cause });
}
