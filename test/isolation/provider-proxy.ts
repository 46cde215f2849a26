import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Stands between payment and its provider, and is silent about what a test says. */
export interface ProviderProxy {
  readonly url: string;
  /** Where the provider is; until it is known, every call is refused. */
  forwardTo(port: number): void;
  /** Does not answer calls whose path or body names one of these, and drops them when the silence ends. */
  silentAbout(names: readonly string[]): void;
  /** Calls that were met with silence. */
  readonly silent: () => number;
  endSilence(): void;
  stop(): Promise<void>;
}

const connectionsMax = 256;

export async function startProviderProxy(): Promise<ProviderProxy> {
  const agent = new Agent({ keepAlive: true, maxSockets: connectionsMax });
  const held = new Set<IncomingMessage>();
  let target: number | undefined;
  let names: readonly string[] = [];
  let silent = 0;

  async function answer(call: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of call) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const text = `${call.url} ${body.toString('utf8')}`;
    if (names.some((name) => text.includes(name))) {
      silent += 1;
      held.add(call);
      call.socket.once('close', () => held.delete(call));
      return;
    }
    if (target === undefined) {
      response.writeHead(502).end();
      return;
    }
    const { method, url, headers } = call;
    const options = { agent, port: target, host: '127.0.0.1', path: url, method, headers };
    const forwarded = request(options, (reply) => {
      response.writeHead(reply.statusCode ?? 502, reply.headers);
      reply.pipe(response);
    });
    forwarded.once('error', () => response.destroy());
    forwarded.end(body);
  }

  const server = createServer((call, response) => {
    answer(call, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const endSilence = (): void => {
    names = [];
    for (const call of held) call.socket.destroy();
    held.clear();
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    forwardTo(port) {
      target = port;
    },
    silentAbout(wanted) {
      names = wanted;
    },
    silent: () => silent,
    endSilence,
    async stop() {
      endSilence();
      agent.destroy();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}
