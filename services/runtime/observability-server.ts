import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';
import { HttpGuard } from './http-guard.ts';

/** Connections of scrapers, probes and people; one more takes the place of one that asks nothing. */
const connectionsMax = 256;
/** Requests of one connection that are not answered yet, at most. */
const unansweredMax = 8;
/** An answer that is being made for so long, in milliseconds, is shared with nobody more. */
const shareMs = 1_000;

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
  const metrics = oneForAll(() => registry.metrics());
  const waitingFor = oneForAll(async () => ready());
  const server = createServer(async (request, response) => {
    try {
      if (request.url === '/metrics') {
        const text = await metrics();
        response.writeHead(200, { 'content-type': registry.contentType }).end(text);
      } else if (request.url === '/healthz') {
        respond(response, 200, { status: 'ok' });
      } else if (request.url === '/readyz') {
        const names = await waitingFor();
        const status = names.length === 0 ? 'ready' : 'not ready';
        respond(response, names.length === 0 ? 200 : 503, { status, waitingFor: names });
      } else {
        respond(response, 404, { status: 'not found' });
      }
    } catch {
      respond(response, 500, { status: 'failed' });
    }
  });
  new HttpGuard(server, { connectionsMax, perPeerMax: connectionsMax, unansweredMax });
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

/**
 * Has whoever asks while an answer is being made wait for that one, so that a herd costs one. One that
 * hangs is waited for by those alone who came in its first second.
 */
function oneForAll<Answer>(make: () => Promise<Answer>): () => Promise<Answer> {
  let underWay: { readonly answer: Promise<Answer>; readonly sinceMs: number } | undefined;
  return async () => {
    const nowMs = performance.now();
    if (underWay && nowMs - underWay.sinceMs < shareMs) return await underWay.answer;
    const mine = { answer: make(), sinceMs: nowMs };
    underWay = mine;
    try {
      return await mine.answer;
    } finally {
      if (underWay === mine) underWay = undefined;
    }
  };
}

function respond(
  response: ServerResponse,
  status: number,
  body: Readonly<Record<string, unknown>>,
): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}
