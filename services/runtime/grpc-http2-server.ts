import { AsyncLocalStorage } from 'node:async_hooks';
import http2, { type Http2Server, type ServerOptions } from 'node:http2';

/**
 * Settings that grpc-js has no options for. A peer whose calls all time out at once resets thousands of
 * streams, and must not lose the others for it: node's default of 1,000 at once and 33 a second ends the
 * connection.
 */
const sessionOptions = { streamResetBurst: 20_000, streamResetRate: 2_000 };

type OnServer = (server: Http2Server) => void;

const waiting = new AsyncLocalStorage<OnServer>();
let wrapped = false;

/**
 * Shows the HTTP/2 server that grpc-js makes in the course of `listen`, before it takes connections:
 * its API shows neither the server nor its sessions.
 */
export async function showingServer<Result>(
  onServer: OnServer,
  listen: () => Promise<Result>,
): Promise<Result> {
  wrapCreateServer();
  return await waiting.run(onServer, listen);
}

function wrapCreateServer(): void {
  if (wrapped) return;
  wrapped = true;
  const { createServer } = http2;
  http2.createServer = ((options: ServerOptions, ...rest: []) => {
    const onServer = waiting.getStore();
    if (onServer === undefined) return createServer(options, ...rest);
    const server = createServer({ ...options, ...sessionOptions }, ...rest);
    onServer(server);
    return server;
  }) as typeof createServer;
}
