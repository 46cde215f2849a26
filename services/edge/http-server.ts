import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify';
import { HttpGuard } from '../runtime/http-guard.ts';
import type { Log } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { isOneOf } from './config.ts';
import { answerClientError, faultOf } from './http-faults.ts';
import { parseJson } from './json-text.ts';
import type { OrderDoor } from './order-door.ts';
import { problemOf } from './problem.ts';
import { RouteTable } from './route-table.ts';

/** The media type of every answer that is not an error. */
export const jsonContentType = 'application/json';

const bodyBytesMax = 16 * 1_024;
const headerBytesMax = 8 * 1_024;
/** A connection on which nothing moves in the middle of a request is closed. */
const connectionTimeoutMs = 10_000;
/** Above the 60 s of the usual balancers, so that they close an idle connection first. */
const keepAliveTimeoutMs = 72_000;
/** The last resort of a route: every call inside has a shorter budget of its own. */
const handlerTimeoutMs = 4_000;

export const securityHeaders = {
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
};

export interface HttpServerOptions {
  readonly trustedProxies: readonly string[];
  readonly connectionsMax: number;
  readonly connectionsPerAddressMax: number;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Whether the process is about to stop: answers then tell their clients to connect elsewhere. */
  readonly stopping: () => boolean;
  /** Asked before anything is done for a request; answers it itself if it says so. */
  readonly door: Pick<OrderDoor, 'turnAway'>;
  /** Adds the routes; each gets the limits, headers and error answers of the server. */
  readonly routes: (app: FastifyInstance) => void;
}

/** An HTTP server with every limit set; not listening yet. */
export function createHttpServer(options: HttpServerOptions): FastifyInstance {
  const { log, trustedProxies } = options;
  const instancePrefix = `urn:sluice:request:${randomBytes(6).toString('hex')}-`;
  let requests = 0;
  const nextInstance = (): string => {
    requests += 1;
    return `${instancePrefix}${requests}`;
  };
  const app = fastify({
    logger: false,
    bodyLimit: bodyBytesMax,
    connectionTimeout: connectionTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    forceCloseConnections: 'idle',
    // Requests that are under way when the server stops are finished, not refused.
    return503OnClosing: false,
    trustProxy: trustedProxies.length > 0 ? [...trustedProxies] : false,
    http: { maxHeaderSize: headerBytesMax },
    genReqId: nextInstance,
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, request, reply) => {
      const plain = request as unknown as FastifyRequest;
      sendProblem(error, plain, reply as unknown as FastifyReply, log);
    },
  });
  askFirst(app, options, nextInstance);
  guard(app, options);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      done(null, body.length === 0 ? undefined : parseJson(body as Buffer));
    } catch (error) {
      done(error as Error);
    }
  });
  app.decorateRequest('caller', null);
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply, log));
  const routeTable = new RouteTable();
  app.addHook('onRoute', (route) => {
    routeTable.add(route.method, route.url);
    if (!route.config?.ownDeadline) route.handlerTimeout ??= handlerTimeoutMs;
  });
  app.addHook('onRequest', (request, reply, done) => {
    // Every answer is text already; with a serializer fastify adds no charset, which JSON has not.
    reply.headers(securityHeaders).serializer(asItIs);
    if (request.is404) done(routeTable.faultOf(request.url));
    else done();
  });
  measureRequests(app, options.metrics);
  closeBehindAnswers(app, options.stopping);
  options.routes(app);
  return app;
}

/** Has the door turn away what it does not let in, in front of everything that fastify does for a request. */
function askFirst(
  { server }: FastifyInstance,
  { door, stopping }: HttpServerOptions,
  nextInstance: () => string,
): void {
  const handlers = server.listeners('request');
  server.removeAllListeners('request');
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    // Answers of a server that stops end their connection, which is looked after further inside.
    if (!stopping() && door.turnAway(request, response, nextInstance)) return;
    for (const handle of handlers) handle.call(server, request, response);
  });
}

/** Bounds what clients may hold on to, and counts what was closed for it. */
function guard(app: FastifyInstance, options: HttpServerOptions): void {
  const { connectionsMax, connectionsPerAddressMax, trustedProxies, metrics } = options;
  const closed = metrics.counter(
    'http_connections_closed_total',
    'Connections that were closed before their time, by reason',
    ['reason'],
  );
  const httpGuard = new HttpGuard(app.server, {
    connectionsMax,
    perPeerMax: connectionsPerAddressMax,
    isTrusted: isOneOf(trustedProxies),
    onClosed: (reason) => closed.inc({ reason }),
  });
  const connections = metrics.gauge('http_connections', 'Connections that are open');
  Object.assign(connections, { collect: () => connections.set(httpGuard.connections) });
}

/**
 * A server that stops closes the connections that are idle at that moment, and a request that is on its
 * way there is lost. So each answer from the beginning of the stop on ends its connection: its client
 * connects anew for the next request, and the stop waits for nobody.
 */
function closeBehindAnswers(app: FastifyInstance, stopping: () => boolean): void {
  let closing = false;
  app.addHook('preClose', (done) => {
    closing = true;
    done();
  });
  app.addHook('onSend', (_request, reply, payload, done) => {
    if (closing || stopping()) reply.header('connection', 'close');
    done(null, payload);
  });
}

function asItIs(text: unknown): string {
  return text as string;
}

function sendProblem(
  error: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
  log: Log,
): FastifyReply {
  const problem = problemOf(faultOf(error, request, log), request.id);
  // A URL that cannot be read never came to the hook that sets them.
  const headers = { ...securityHeaders, ...problem.headers };
  return reply.code(problem.status).headers(headers).serializer(asItIs).send(problem.body);
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * Whether the handler surely answers in time by itself. Fastify's own timeout makes and aborts an
     * AbortController for every request, 20 µs that the path of an order does not have.
     */
    ownDeadline?: boolean;
  }
}

/** Buckets of DESIGN's order_create_duration_seconds, with a finer start. */
const durationBuckets = [0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];

function measureRequests(app: FastifyInstance, metrics: Metrics): void {
  const durations = metrics.histogram(
    'http_request_duration_seconds',
    'Time from the request head to the last byte of the answer',
    durationBuckets,
    ['route', 'method', 'status'],
  );
  // Looking up a labelled child costs more than observing it, and there are only some dozens.
  const children = new Map<string, { observe(seconds: number): void }>();
  app.addHook('onResponse', (request, reply, done) => {
    const route = request.routeOptions.url ?? 'none';
    const method = request.is404 ? 'any' : request.method;
    const key = `${method} ${route} ${reply.statusCode}`;
    let child = children.get(key);
    if (!child) {
      child = durations.labels({ route, method, status: String(reply.statusCode) });
      children.set(key, child);
    }
    child.observe(reply.elapsedTime / 1_000);
    done();
  });
}
