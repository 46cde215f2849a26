import { readFileSync } from 'node:fs';
import {
  type CallContext,
  type CompatServiceDefinition,
  createServer,
  ServerError,
  type ServerMiddleware,
  type ServiceImplementation,
  Status,
} from 'nice-grpc';
import { errorDetailsServerMiddleware } from 'nice-grpc-error-details';
import { HealthDefinition, HealthServiceImpl, HealthState } from 'nice-grpc-server-health';
import { ServerReflection, ServerReflectionService } from 'nice-grpc-server-reflection';
import { type DeadlineContext, deadlineMiddleware } from './grpc-deadline.ts';
import { GrpcGuard } from './grpc-guard.ts';
import { guardMetrics } from './grpc-guard-metrics.ts';
import { showingServer } from './grpc-http2-server.ts';
import { type GrpcLimits, grpcLimits } from './grpc-limits.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import { toStatus } from './refusal-status.ts';
import { Refusal } from './refusals.ts';
import type { Tokens } from './tokens.ts';

/** A batch of 500 orders of 20 lines is below this; the default of 4 MiB invites abuse. */
const messageBytesMax = 2 * 1024 * 1024;
/** How long calls under way may take while the server stops. */
const drainMs = 5_000;

/** Dead peers are noticed and connections renewed by the guard. */
const serverOptions = {
  'grpc.max_receive_message_length': messageBytesMax,
  'grpc.max_concurrent_streams': grpcLimits.streamsPerConnectionMax,
  'grpc.enable_channelz': 0,
};

/** One service of a server; `service()` ties the implementation's type to the definition's. */
export interface ServerService {
  readonly definition: CompatServiceDefinition;
  readonly implementation: unknown;
  /** Which methods need a token with the role `admin`: all, or those named as in the definition. */
  readonly adminOnly: boolean | readonly string[];
}

export function service<Definition extends CompatServiceDefinition>(
  definition: Definition,
  implementation: ServiceImplementation<Definition, DeadlineContext>,
  { adminOnly = false }: Partial<Pick<ServerService, 'adminOnly'>> = {},
): ServerService {
  return { definition, implementation, adminOnly };
}

export interface GrpcServerOptions {
  readonly host: string;
  /** 0 lets the system choose. */
  readonly port: number;
  readonly services: readonly ServerService[];
  /** Needed where a service is for operators only. */
  readonly tokens?: Tokens;
  readonly log: Log;
  /** Calls handled at once; more are refused as OVERLOADED. */
  readonly inFlightMax: number;
  /** Where connections, streams and what was refused are counted. */
  readonly metrics?: Metrics;
  /** What one peer and all together may hold; what is not given has its default. */
  readonly limits?: Partial<GrpcLimits>;
}

export interface GrpcServer {
  readonly port: number;
  /**
   * Reports NOT_SERVING, tells clients to go elsewhere while it still takes what they have sent, finishes
   * the calls under way (5 s at most) and closes.
   */
  stop(): Promise<void>;
}

/** Starts a server with reflection, health, deadlines, the error catalogue and an in-flight cap. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  const { host, port, services, tokens, log, inFlightMax, metrics, limits } = options;
  const health = HealthState();
  // Each stream that watches is a listener of it, and their number is bounded.
  health.setMaxListeners(0);
  const server = createServer(serverOptions)
    .use(errorDetailsServerMiddleware)
    .use(refusalMiddleware(log))
    .use(inFlightMiddleware(inFlightMax))
    .use(deadlineMiddleware);
  for (const { definition, implementation, adminOnly } of services) {
    const typed = implementation as ServiceImplementation<CompatServiceDefinition, DeadlineContext>;
    const guarded = guardedPaths(definition, adminOnly);
    if (guarded.size > 0) server.with(roleMiddleware(tokens, guarded)).add(definition, typed);
    else server.add(definition, typed);
    health.setStatus('healthy', fullName(definition));
  }
  server.add(HealthDefinition, HealthServiceImpl(health));
  const descriptors = readFileSync(new URL('../../gen/descriptors.binpb', import.meta.url));
  const names = services.map(({ definition }) => fullName(definition));
  const described = [...names, fullName(HealthDefinition)];
  server.add(ServerReflectionService, ServerReflection(descriptors, described));
  if (!isLoopback(host)) {
    log.warn({ host }, 'gRPC listens without TLS beyond this machine, as SLUICE_LISTEN says');
  }
  const guards: GrpcGuard[] = [];
  const guardOptions = { ...guardMetrics(metrics, guards), ...(limits ? { limits } : {}) };
  const stopGuards = (): void => {
    for (const guard of guards) guard.stop();
  };
  const boundPort = await showingServer(
    (shown) => guards.push(new GrpcGuard(shown, guardOptions)),
    () => server.listen(`${host}:${port}`),
  ).catch((error: unknown) => {
    stopGuards();
    throw error;
  });
  return {
    port: boundPort,
    async stop() {
      health.setStatus('unhealthy');
      for (const name of names) health.setStatus('unhealthy', name);
      await Promise.all(guards.map((guard) => guard.goodbye()));
      const timer = setTimeout(() => {
        server.forceShutdown();
        // A peer that stands still would keep its connection half open.
        stopGuards();
      }, drainMs);
      await server.shutdown().finally(() => clearTimeout(timer));
      stopGuards();
    },
  };
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

function fullName(definition: CompatServiceDefinition): string {
  return (definition as { fullName: string }).fullName;
}

/** Refusals become their status; anything else is logged and answered as INTERNAL without a text. */
function refusalMiddleware(log: Log): ServerMiddleware {
  return async function* (call, context) {
    try {
      return yield* call.next(call.request, context);
    } catch (error) {
      if (error instanceof Refusal) throw toStatus(error);
      if (error instanceof ServerError || isAbort(error)) throw error;
      log.error({ err: error, method: call.method.path }, 'unexpected error');
      throw new ServerError(Status.INTERNAL, 'internal error');
    }
  };
}

/** The caller went away; nice-grpc answers CANCELLED by itself. */
function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError';
}

/**
 * Bounds the calls that are handled at once. The last eighth of the places is for methods that have less
 * than the others: calls of one that hang leave room for the rest.
 */
function inFlightMiddleware(inFlightMax: number): ServerMiddleware {
  const methodMax = inFlightMax - Math.floor(inFlightMax / 8);
  const ofMethod = new Map<string, number>();
  let inFlight = 0;
  return async function* (call, context) {
    // Streams stay open for long; the guard of the server bounds them.
    if (call.responseStream) return yield* call.next(call.request, context);
    const { path } = call.method;
    const same = ofMethod.get(path) ?? 0;
    if (inFlight >= inFlightMax || same >= methodMax) throw new Refusal('OVERLOADED');
    inFlight += 1;
    ofMethod.set(path, same + 1);
    try {
      return yield* call.next(call.request, context);
    } finally {
      inFlight -= 1;
      ofMethod.set(path, (ofMethod.get(path) ?? 1) - 1);
    }
  };
}

/**
 * The paths, such as `/sluice.payment.v1.PaymentService/RefundPayment`, that operators alone may call.
 *
 * @throws Error for a name that is no method's: a slip must not leave a method open to everybody
 */
function guardedPaths(
  definition: CompatServiceDefinition,
  adminOnly: ServerService['adminOnly'],
): ReadonlySet<string> {
  const { methods } = definition as { methods: Record<string, { name: string }> };
  const names =
    typeof adminOnly === 'boolean' ? (adminOnly ? Object.keys(methods) : []) : adminOnly;
  const pathOf = (name: string): string => {
    const method = methods[name];
    if (method === undefined) throw new Error(`${fullName(definition)} has no method ${name}`);
    return `/${fullName(definition)}/${method.name}`;
  };
  return new Set(names.map(pathOf));
}

/** Lets operators through: a token with the role `admin` in the `authorization` metadata. */
function roleMiddleware(
  tokens: Tokens | undefined,
  guarded: ReadonlySet<string>,
): ServerMiddleware {
  return async function* (call, context: CallContext) {
    if (!guarded.has(call.method.path)) return yield* call.next(call.request, context);
    const header = context.metadata.get('authorization') ?? '';
    const token = /^Bearer (.+)$/i.exec(header)?.[1];
    if (token === undefined || tokens === undefined) {
      throw new Refusal(
        'UNAUTHENTICATED',
        'Send a token as metadata: authorization: Bearer <token>',
      );
    }
    if (tokens.verify(token).role !== 'admin') {
      throw new Refusal('FORBIDDEN', 'The role admin is needed');
    }
    return yield* call.next(call.request, context);
  };
}
