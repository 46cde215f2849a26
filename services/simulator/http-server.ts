import { createHash, timingSafeEqual } from 'node:crypto';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type FastifyInstance, type FastifyRequest, fastify } from 'fastify';
import type { Log } from '../runtime/log.ts';
import { ApiError } from './api-error.ts';
import type { KnobPanel } from './knobs.ts';

const bodyBytesMax = 16 * 1_024;
const requestTimeoutMs = 5_000;
const connectionTimeoutMs = 120_000;
const keepAliveTimeoutMs = 72_000;
const connectionsMax = 10_000;
/** An answer that never comes comes to an end by then. */
const hangMsMax = 30_000;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Whether the knobs may slow the call and lose its answer. */
    faulty?: boolean;
  }
}

export interface HttpServerOptions {
  readonly apiKey: string;
  readonly knobs: KnobPanel;
  readonly log: Log;
  /** Aborted when the process stops: calls that the knobs hold up end. */
  readonly stopping: AbortSignal;
  /** The payment page, for everybody. */
  readonly pages: (app: FastifyInstance) => void;
  /** The API under `/v1`; each call shows the key. */
  readonly api: (app: FastifyInstance) => void;
}

/** An HTTP server with every limit set; not listening yet. */
export function createHttpServer(options: HttpServerOptions): FastifyInstance {
  const { log, apiKey } = options;
  const app = fastify({
    logger: false,
    bodyLimit: bodyBytesMax,
    requestTimeout: requestTimeoutMs,
    connectionTimeout: connectionTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    forceCloseConnections: true,
  });
  app.server.maxConnections = connectionsMax;
  app.setErrorHandler((error, request, reply) => {
    const { status, code, message } = apiErrorOf(error, request, log);
    reply.code(status).send({ error: { code, message } });
  });
  app.setNotFoundHandler((_request, reply) => {
    reply.code(404).send({ error: { code: 'not_found', message: 'there is nothing here' } });
  });
  app.addHook('onRequest', async (_request, reply) => {
    reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
  });
  app.register(async (pages) => options.pages(pages));
  app.register(
    async (api) => {
      const isKey = keyCheck(apiKey);
      api.addHook('onRequest', async (request) => {
        if (isKey(request.headers.authorization)) return;
        throw new ApiError(401, 'unauthenticated', 'the API key is missing or wrong');
      });
      addFaults(api, options);
      options.api(api);
    },
    { prefix: '/v1' },
  );
  return app;
}

/** Answers whether a header shows the key, in a time that tells nothing about it. */
function keyCheck(apiKey: string): (header: string | undefined) => boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  const wanted = digest(`Bearer ${apiKey}`);
  return (header = '') => timingSafeEqual(digest(header), wanted);
}

/** What the knobs do to calls: slow before, and afterwards, when everything is done, no answer. */
function addFaults(app: FastifyInstance, { knobs, stopping }: HttpServerOptions): void {
  app.addHook('preHandler', async (request) => {
    const { slowMs } = knobs.now;
    if (!request.routeOptions.config.faulty || slowMs === 0) return;
    // A caller that has gone meanwhile changes nothing: its call is done late, as in life.
    await sleep(slowMs, undefined, { signal: stopping });
  });
  app.addHook('onSend', async (request, reply, payload) => {
    const { loseAnswers, loseShare } = knobs.now;
    if (!request.routeOptions.config.faulty || loseAnswers === 'no') return payload;
    if (reply.statusCode >= 400 || Math.random() >= loseShare) return payload;
    const { socket } = request.raw;
    if (loseAnswers === 'hang') await leavesWithin(socket, hangMsMax);
    socket.destroy();
    return payload;
  });
}

async function leavesWithin(socket: Socket, boundMs: number): Promise<void> {
  if (socket.destroyed) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, boundMs);
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

function apiErrorOf(error: unknown, request: FastifyRequest, log: Log): ApiError {
  if (error instanceof ApiError) return error;
  const { statusCode = 500, message = '' } = (error ?? {}) as Error & { statusCode?: number };
  if (statusCode >= 400 && statusCode < 500) {
    return new ApiError(statusCode, 'invalid_request', message);
  }
  log.error({ err: error, route: request.routeOptions.url }, 'request failed');
  return new ApiError(500, 'internal', 'something went wrong in the simulator');
}
