import type { FastifyInstance } from 'fastify';
import { jsonContentType } from '../http-server.ts';

/** Whether the process lives and whether it can take orders; the port for machines answers the same. */
export function addHealthRoutes(
  app: FastifyInstance,
  { waitingFor }: { waitingFor: () => string[] },
): void {
  app.get('/healthz', async (_request, reply) => {
    reply.type(jsonContentType);
    return '{"status":"ok"}';
  });

  app.get('/readyz', async (_request, reply) => {
    const names = waitingFor();
    const status = names.length === 0 ? 'ready' : 'not ready';
    reply.code(names.length === 0 ? 200 : 503).type(jsonContentType);
    return JSON.stringify({ status, waitingFor: names });
  });
}
