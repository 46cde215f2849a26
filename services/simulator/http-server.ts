import { createHash, timingSafeEqual } from 'node:crypto';
import { type FastifyInstance, type FastifyRequest, fastify } from 'fastify';
import type { Log } from '../runtime/log.ts';
import { ApiError } from './api-error.ts';
import { addFaults, type FaultsOptions } from './faults.ts';

const bodyBytesMax = 16 * 1_024;
const requestTimeoutMs = 5_000;
const connectionTimeoutMs = 120_000;
const keepAliveTimeoutMs = 72_000;
const connectionsMax = 10_000;

export interface HttpServerOptions extends FaultsOptions {
  readonly apiKey: string;
  readonly log: Log;
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

function apiErrorOf(error: unknown, request: FastifyRequest, log: Log): ApiError {
  if (error instanceof ApiError) return error;
  const { statusCode = 500, message = '' } = (error ?? {}) as Error & { statusCode?: number };
  if (statusCode >= 400 && statusCode < 500) {
    return new ApiError(statusCode, 'invalid_request', message);
  }
  log.error({ err: error, route: request.routeOptions.url }, 'request failed');
  return new ApiError(500, 'internal', 'something went wrong in the simulator');
}
