import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';

export interface ObservabilityOptions {
  /** 0 lets the system choose. */
  readonly port: number;
  readonly registry: Registry;
  /** Names what is not ready yet; empty means ready. */
  readonly ready: () => string[] | Promise<string[]>;
}

/**
 * Serves `/metrics`, `/healthz` and `/readyz` for machines, apart from the service's own port and on
 * loopback, wherever the service itself listens.
 */
export async function startObservabilityServer({
  port,
  registry,
  ready,
}: ObservabilityOptions): Promise<{ port: number; stop(): Promise<void> }> {
  const server = createServer(async (request, response) => {
    try {
      if (request.url === '/metrics') {
        const text = await registry.metrics();
        response.writeHead(200, { 'content-type': registry.contentType }).end(text);
      } else if (request.url === '/healthz') {
        respond(response, 200, { status: 'ok' });
      } else if (request.url === '/readyz') {
        const waitingFor = await ready();
        const status = waitingFor.length === 0 ? 'ready' : 'not ready';
        respond(response, waitingFor.length === 0 ? 200 : 503, { status, waitingFor });
      } else {
        respond(response, 404, { status: 'not found' });
      }
    } catch {
      respond(response, 500, { status: 'failed' });
    }
  });
  server.requestTimeout = 5_000;
  server.headersTimeout = 5_000;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function respond(
  response: import('node:http').ServerResponse,
  status: number,
  body: Readonly<Record<string, unknown>>,
): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}
