import type { Channel } from '@grpc/grpc-js';
import {
  type CallOptions,
  type Client,
  type CompatServiceDefinition,
  createClientFactory,
  Metadata,
} from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import type { Gauge } from 'prom-client';
import { type Breaker, createBreaker } from './breaker.ts';
import { Deadline } from './deadline.ts';
import {
  isConnected,
  isConnectionLoss,
  NeverSent,
  openChannel,
  waitUntilConnected,
} from './grpc-channel.ts';
import { deadlineLeftHeader } from './grpc-deadline.ts';
import type { Log } from './log.ts';
import { fromClientError } from './refusal-status.ts';
import { Refusal } from './refusals.ts';

/** The server is given its deadline; this much later the client gives up by itself. */
const answerGraceMs = 30;
/** With less time left a second attempt could not be answered. */
const retryMsMin = 50;
/** How one method is called; a caller has one table of these. */
export interface CallPolicy {
  /** Milliseconds a call may take; the caller's own deadline can only shorten it. */
  readonly deadlineMs: number;
  /** Whether a call that was surely never sent is tried once more. */
  readonly retry?: boolean;
  /** The class of methods that share a breaker, such as `stock.reserve`. */
  readonly breaker: string;
  /** Whether the method changes nothing, so that a lost answer is DEPENDENCY_DOWN, not unknown. */
  readonly readOnly?: boolean;
}

export interface PolicyOptions {
  readonly deadline?: Deadline;
  readonly metadata?: Metadata;
}

type UnaryMethods<Definition extends CompatServiceDefinition> = {
  [Method in keyof Client<Definition>]: Client<Definition>[Method] extends (
    request: infer Request,
    options?: CallOptions,
  ) => Promise<infer Response>
    ? (request: Request, options?: PolicyOptions) => Promise<Response>
    : never;
};

export interface GrpcClientOptions<Methods extends string> {
  /** `host:port` of every copy; calls are spread over them. */
  readonly addresses: readonly string[];
  readonly callTable: Readonly<Record<Methods, CallPolicy>>;
  readonly log: Log;
  readonly breakerState?: Gauge<'name'>;
}

export interface GrpcClient<Definition extends CompatServiceDefinition, Methods extends string> {
  /** The methods of the call table; every error is a Refusal. */
  readonly client: Pick<UnaryMethods<Definition>, Methods & keyof UnaryMethods<Definition>>;
  /** Whether a connection is up. */
  connected(): boolean;
  /** The breaker of a class of methods. */
  breaker(name: string): Breaker | undefined;
  close(): void;
}

/** A client of one service that calls as its table says: deadline, retry, breaker. */
export function createGrpcClient<
  Definition extends CompatServiceDefinition,
  Methods extends string,
>(
  definition: Definition,
  { addresses, callTable, log, breakerState }: GrpcClientOptions<Methods>,
): GrpcClient<Definition, Methods> {
  const channel = openChannel(addresses);
  const raw = createClientFactory()
    .use(errorDetailsClientMiddleware)
    .create(definition, channel) as unknown as Record<string, RawMethod>;
  const breakers = new Map<string, Breaker>();
  const client: Record<string, unknown> = {};
  for (const [method, policy] of Object.entries<CallPolicy>(callTable)) {
    let breaker = breakers.get(policy.breaker);
    if (breaker === undefined) {
      breaker = createBreaker({
        name: policy.breaker,
        log,
        ...(breakerState ? { state: breakerState } : {}),
        probe: () => isConnected(channel),
        isConnectionLoss,
      });
      breakers.set(policy.breaker, breaker);
    }
    client[method] = withPolicy(channel, policy, breaker, raw[method] as RawMethod);
  }
  channel.getConnectivityState(true);
  return {
    client: client as GrpcClient<Definition, Methods>['client'],
    connected: () => isConnected(channel),
    breaker: (name) => breakers.get(name),
    close() {
      for (const breaker of breakers.values()) breaker.stop();
      channel.close();
    },
  };
}

type RawMethod = (request: unknown, options: CallOptions) => Promise<unknown>;

function withPolicy(channel: Channel, policy: CallPolicy, breaker: Breaker, raw: RawMethod) {
  return async (request: unknown, options: PolicyOptions = {}): Promise<unknown> => {
    const deadline = (options.deadline ?? Deadline.after(policy.deadlineMs)).min(policy.deadlineMs);
    const attempt = async (): Promise<unknown> => {
      if (!isConnected(channel)) await waitUntilConnected(channel, deadline);
      return await callOnce(raw, request, deadline, options.metadata, !policy.readOnly);
    };
    const hasty = deadline.leftMs() < policy.deadlineMs / 2;
    const outcome = await breaker.fire(async () => {
      try {
        return { response: await attempt() };
      } catch (error) {
        if (hasty && deadline.passed) return { error };
        const neverSent = error instanceof NeverSent;
        if (!neverSent || !policy.retry || deadline.leftMs() < retryMsMin) throw error;
        return { response: await attempt() };
      }
    });
    // A caller that came with hardly any time says nothing about the peer, so its timeout passes
    // by the breaker instead of closing the way for everybody.
    if ('error' in outcome) throw outcome.error;
    return outcome.response;
  };
}

async function callOnce(
  raw: RawMethod,
  request: unknown,
  deadline: Deadline,
  given: Metadata | undefined,
  mayHaveTakenEffect: boolean,
): Promise<unknown> {
  const leftMs = Math.floor(deadline.leftMs());
  if (leftMs <= 0) throw new Refusal('OVERLOADED', 'The time ran out before the call was sent');
  const metadata = Metadata(given);
  // grpc-js writes grpc-timeout only for deadlines that nice-grpc has no way to pass on.
  metadata.set('grpc-timeout', `${leftMs}m`);
  metadata.set(deadlineLeftHeader, String(leftMs));
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), leftMs + answerGraceMs);
  try {
    return await raw(request, { metadata, signal: abort.signal });
  } catch (error) {
    throw fromClientError(error, mayHaveTakenEffect);
  } finally {
    clearTimeout(timer);
  }
}
