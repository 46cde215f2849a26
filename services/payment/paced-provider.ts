import Bottleneck from 'bottleneck';
import type { Gauge } from 'prom-client';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import { type Breaker, createBreaker } from '../runtime/breaker.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { PaymentProvider } from './provider.ts';

export interface PacedProviderOptions {
  readonly log: Log;
  /** Polls and refunds started in a second at most. */
  readonly callsPerSecond: number;
  /** Sessions being opened, and being voided, at once at most. */
  readonly sessionsInFlightMax: number;
  readonly metrics: { readonly breakerState: Gauge<'name'>; readonly hops: BatcherMetrics };
}

/** A provider that is called no faster than it may be, and not at all while its circuit is open. */
export interface PacedProvider extends PaymentProvider {
  close(): Promise<void>;
}

/** Sessions waiting to be opened at most; more buyers are told OVERLOADED at once. */
const queueDepthMax = 500;
/** Paced calls waiting at most: what the loops claim in one round, with room for two. */
const pacedQueueMax = 200;
const pacedInFlightMax = 16;

/**
 * Stands before a provider. Opening and voiding sessions is bounded, because buyers wait for it; asking and refunding is
 * paced by bottleneck. Each class of methods has a circuit of its own, and the caller's deadline is the only timeout.
 */
export function createPacedProvider(
  provider: PaymentProvider,
  { log, callsPerSecond, sessionsInFlightMax, metrics }: PacedProviderOptions,
): PacedProvider {
  const { name } = provider;
  const breaker = (methods: string): Breaker =>
    createBreaker({ name: `${name}.${methods}`, log, state: metrics.breakerState });
  const circuits = { open: breaker('open'), void: breaker('void'), read: breaker('read') };
  const refunds = breaker('refund');
  const opening = bounded(`${name}_open`, sessionsInFlightMax, metrics.hops);
  const voiding = bounded(`${name}_void`, sessionsInFlightMax, metrics.hops);
  const limiter = new Bottleneck({
    minTime: 1_000 / callsPerSecond,
    maxConcurrent: pacedInFlightMax,
    highWater: pacedQueueMax,
    strategy: Bottleneck.strategy.OVERFLOW,
  });
  const paced = async <Result>(circuit: Breaker, call: Call<Result>, deadline: Deadline) => {
    try {
      return await limiter.schedule(() => guarded(circuit, call, deadline));
    } catch (error) {
      if (!(error instanceof Bottleneck.BottleneckError)) throw error;
      throw new Refusal('OVERLOADED', undefined, { cause: error });
    }
  };

  return {
    name,
    openSession: (request, deadline) =>
      opening.add(
        () => guarded(circuits.open, () => provider.openSession(request, deadline), deadline),
        deadline,
      ) as ReturnType<PaymentProvider['openSession']>,
    closeSession: (reference, deadline) =>
      voiding.add(
        () => guarded(circuits.void, () => provider.closeSession(reference, deadline), deadline),
        deadline,
      ) as ReturnType<PaymentProvider['closeSession']>,
    readSession: (reference, deadline) =>
      paced(circuits.read, () => provider.readSession(reference, deadline), deadline),
    refund: (order, deadline) => paced(refunds, () => provider.refund(order, deadline), deadline),
    readRefund: (order, deadline) =>
      paced(circuits.read, () => provider.readRefund(order, deadline), deadline),
    readWebhook: (body, headers, now) => provider.readWebhook(body, headers, now),
    async close() {
      await Promise.all([opening.close(), voiding.close(), limiter.stop()]);
      for (const circuit of [...Object.values(circuits), refunds]) circuit.stop();
    },
  };
}

type Call<Result> = () => Promise<Result>;

/** At most so many at once; what waits is dropped when its time is over. */
function bounded(name: string, inFlightMax: number, metrics: BatcherMetrics) {
  return new Batcher<Call<unknown>, unknown>({
    ...{ name, inFlightMax, queueDepthMax, metrics },
    entriesMax: 1,
    run: async (calls) => [await (calls[0] as Call<unknown>)()],
  });
}

/** A caller that came with hardly any time says nothing about the provider by running out of it. */
const fairBudgetMs = 500;

async function guarded<Result>(
  circuit: Breaker,
  call: Call<Result>,
  deadline: Deadline,
): Promise<Result> {
  if (deadline.passed) throw new Refusal('OVERLOADED', 'The time ran out before the call was made');
  const hasty = deadline.leftMs() < fairBudgetMs;
  const outcome = await circuit.fire(async () => {
    try {
      return { result: await call() };
    } catch (error) {
      if (hasty && deadline.passed) return { error };
      throw error;
    }
  });
  if ('error' in outcome) throw outcome.error;
  return outcome.result;
}
