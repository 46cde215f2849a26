import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { PaymentProvider } from '../../services/payment/provider.ts';
import { createSimulatorProvider } from '../../services/payment/providers/simulator/simulator-provider.ts';
import { createLog } from '../../services/runtime/log.ts';
import { compose, type Overrides } from '../../services/simulator/compose.ts';
import { readConfig } from '../../services/simulator/config.ts';
import type { Knobs } from '../../services/simulator/knobs.ts';

export const apiKey = 'the API key of the tests of the simulator';
export const webhookKey = 'the webhook key of the tests of the simulator';
const log = createLog('test', 'silent');

/** A simulator on free ports. */
export interface RunningSimulator {
  readonly url: string;
  readonly port: number;
  readonly metricsUrl: string;
  /** The payment service's client of it. */
  readonly provider: PaymentProvider;
  /** Calls the API; answers the status and the body. */
  call(method: string, path: string, body?: unknown): Promise<{ status: number; body: Json }>;
  /** Sets these knobs, and all others back. */
  knobs(values: Partial<Knobs>): Promise<void>;
  stop(): Promise<void>;
}

// biome-ignore lint/suspicious/noExplicitAny: tests look into answers, and fail where they differ.
export type Json = any;

export async function startSimulator(
  variables: Readonly<Record<string, string>> = {},
  overrides: Overrides = {},
): Promise<RunningSimulator> {
  const config = readConfig({
    SLUICE_SIMULATOR_PORT: '0',
    SLUICE_SIMULATOR_METRICS_PORT: '0',
    SLUICE_SIMULATOR_API_KEY: apiKey,
    SLUICE_PAYMENT_WEBHOOK_KEYS: webhookKey,
    // Nothing listens there: tests that want webhooks say where.
    SLUICE_SIMULATOR_WEBHOOK_URL: 'http://127.0.0.1:9/',
    ...variables,
  });
  const { port, metricsPort, lifecycle } = await compose(config, { log, ...overrides });
  const url = `http://127.0.0.1:${port}`;
  const call: RunningSimulator['call'] = async (method, path, body) => {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${apiKey}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: await response.json() };
  };
  return {
    url,
    port,
    metricsUrl: `http://127.0.0.1:${metricsPort}`,
    provider: createSimulatorProvider({ url, apiKey, webhookKeys: [webhookKey] }, log),
    call,
    async knobs(values) {
      const { status, body } = await call('PUT', '/v1/knobs', values);
      if (status !== 200) throw new Error(JSON.stringify(body));
    },
    stop: () => lifecycle.stop(),
  };
}

/** A webhook as it arrived. */
export interface Received {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  readonly event: Json;
}

/** Somebody who receives webhooks, and answers what a test says. */
export interface Receiver {
  readonly url: string;
  readonly received: Received[];
  /** The status of the answers; 200 at first. */
  status: number;
  /** The most connections that were open at once. */
  readonly connectionsMax: number;
  stop(): Promise<void>;
}

export async function startReceiver(): Promise<Receiver> {
  const received: Received[] = [];
  let connections = 0;
  let connectionsMax = 0;
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    received.push({
      body,
      headers: plain(request.headers),
      event: JSON.parse(body.toString('utf8')),
    });
    response.writeHead(receiver.status).end();
  });
  server.on('connection', (socket) => {
    connections += 1;
    connectionsMax = Math.max(connectionsMax, connections);
    socket.once('close', () => {
      connections -= 1;
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/webhooks`,
    received,
    status: 200,
    get connectionsMax() {
      return connectionsMax;
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return receiver;
}

function plain(headers: IncomingHttpHeaders): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]));
}
