import {
  type CallOptions,
  type Client,
  type CompatServiceDefinition,
  createClientFactory,
  Metadata,
} from 'nice-grpc';
import { errorDetailsClientMiddleware } from 'nice-grpc-error-details';
import type { Counter, Gauge } from 'prom-client';
import type { Breaker } from './breaker.ts';
import { Deadline } from './deadline.ts';
import { addBreakers, atSomeCopy } from './grpc-attempts.ts';
import { callFateHeader, newCallFate } from './grpc-call-fates.ts';
import { type Copy, ServiceCopies } from './grpc-copies.ts';
import { deadlineLeftHeader } from './grpc-deadline.ts';
import type { Log } from './log.ts';
import { fromClientError } from './refusal-status.ts';
import { Refusal } from './refusals.ts';

/** The server is given its deadline; this much later the client gives up by itself. */
const answerGraceMs = 30;
/** Calls of one class under way at most: about what a service answers in two seconds. */
const callsMax = 4_000;

/** How one method is called; a caller has one table of these. */
export interface CallPolicy {
  /** Milliseconds a call may take; the caller's own deadline can only shorten it. */
  readonly deadlineMs: number;
  /**
   * Whether a call that was not sent for lack of a connection is tried once more where there is one
   * copy only. What another copy can take goes there in any case, and so does what was turned away.
   */
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
  /** `host:port` of every copy; each call goes to the one that will probably answer first. */
  readonly addresses: readonly string[];
  readonly callTable: Readonly<Record<Methods, CallPolicy>>;
  readonly log: Log;
  /** Named by the class of methods; where there are several copies, `stock.reserve@host:port`. */
  readonly breakerState?: Gauge<'name'>;
  /** Counts calls that were sent again because they surely had no effect. */
  readonly resent?: Counter<'reason'>;
}

export interface GrpcClient<Definition extends CompatServiceDefinition, Methods extends string> {
  /** The methods of the call table; every error is a Refusal. */
  readonly client: Pick<UnaryMethods<Definition>, Methods & keyof UnaryMethods<Definition>>;
  /** Whether a connection to any copy is up. */
  connected(): boolean;
  /** The breaker of a class of methods; with several copies, all of them as one: open if all are. */
  breaker(name: string): Pick<Breaker, 'open' | 'close'> | undefined;
  close(): void;
}

/** A client of one service that calls as its table says: deadline, retry, breaker. */
export function createGrpcClient<
  Definition extends CompatServiceDefinition,
  Methods extends string,
>(
  definition: Definition,
  { addresses, callTable, log, breakerState, resent }: GrpcClientOptions<Methods>,
): GrpcClient<Definition, Methods> {
  const copies = new ServiceCopies(addresses);
  const factory = createClientFactory().use(errorDetailsClientMiddleware);
  const raws = new Map<Copy, Record<string, RawMethod>>();
  for (const copy of copies.all) {
    const raw = factory.create(definition, copy.channel);
    raws.set(copy, raw as unknown as Record<string, RawMethod>);
  }
  const client: Record<string, unknown> = {};
  const underWay = new Map<string, { calls: number }>();
  for (const [method, policy] of Object.entries<CallPolicy>(callTable)) {
    addBreakers(copies, policy.breaker, { log, state: breakerState });
    const ofClass = underWay.get(policy.breaker) ?? { calls: 0 };
    underWay.set(policy.breaker, ofClass);
    const send: Send = (copy, request, deadline, metadata) => {
      const raw = raws.get(copy)?.[method] as RawMethod;
      return callOnce(raw, request, deadline, metadata, !policy.readOnly);
    };
    const call = withPolicy(copies, policy, send, resent);
    client[method] = async (request: unknown, options: PolicyOptions = {}) => {
      if (ofClass.calls >= callsMax)
        throw new Refusal('OVERLOADED', 'Too many calls are under way');
      ofClass.calls += 1;
      try {
        return await call(request, options);
      } finally {
        ofClass.calls -= 1;
      }
    };
  }
  return {
    client: client as GrpcClient<Definition, Methods>['client'],
    connected: () => copies.connected,
    breaker: (name) => breakerOfAll(copies, name),
    close: () => copies.close(),
  };
}

type RawMethod = (request: unknown, options: CallOptions) => Promise<unknown>;

type Send = (
  copy: Copy,
  request: unknown,
  deadline: Deadline,
  metadata: Metadata | undefined,
) => Promise<unknown>;

function breakerOfAll(
  copies: ServiceCopies,
  name: string,
): Pick<Breaker, 'open' | 'close'> | undefined {
  const breakers = copies.all.flatMap((copy) => copy.breakers.get(name) ?? []);
  if (breakers.length === 0) return undefined;
  return {
    get open() {
      return breakers.every(({ open }) => open);
    },
    close() {
      for (const breaker of breakers) breaker.close();
    },
  };
}

function withPolicy(
  copies: ServiceCopies,
  policy: CallPolicy,
  send: Send,
  resent: Counter<'reason'> | undefined,
) {
  return async (request: unknown, options: PolicyOptions): Promise<unknown> => {
    const deadline = (options.deadline ?? Deadline.after(policy.deadlineMs)).min(policy.deadlineMs);
    const hasty = deadline.leftMs() < policy.deadlineMs / 2;
    return await atSomeCopy(copies, policy.breaker, deadline, {
      retry: policy.retry ?? false,
      ...(resent ? { resent } : {}),
      async attempt(copy) {
        try {
          return { response: await send(copy, request, deadline, options.metadata) };
        } catch (error) {
          // A caller that came with hardly any time says nothing about the peer, so its timeout
          // passes by the breaker instead of closing the way for everybody.
          if (hasty && deadline.passed) return { error };
          throw error;
        }
      },
    });
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
  const fate = newCallFate();
  const metadata = Metadata(given);
  // grpc-js writes grpc-timeout only for deadlines that nice-grpc has no way to pass on.
  metadata.set('grpc-timeout', `${leftMs}m`);
  metadata.set(deadlineLeftHeader, String(leftMs));
  metadata.set(callFateHeader, fate.id);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), leftMs + answerGraceMs);
  try {
    return await raw(request, { metadata, signal: abort.signal });
  } catch (error) {
    throw fate.refusal(error) ?? fromClientError(error, mayHaveTakenEffect);
  } finally {
    clearTimeout(timer);
    fate.forget();
  }
}
