import { after, before } from 'node:test';
import { compose, type Overrides } from '../../services/edge/compose.ts';
import { readConfig } from '../../services/edge/config.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { eventually } from '../support/eventually.ts';
import { outlastPauses } from '../support/outlast-pauses.ts';
import { Peers, servePeers } from './peers.ts';

export { Peers } from './peers.ts';

// The edge and its peers share the process of a test.
outlastPauses();

export const tokenSecret = 'a secret for the tests of the edge, long enough';
export const tokens = createTokens({ secret: tokenSecret });

/** The `authorization` header of a user. */
export function bearer(userId: bigint, role?: string): { authorization: string } {
  const { token } = tokens.sign({ userId, ttlSeconds: 600, ...(role ? { role } : {}) });
  return { authorization: `Bearer ${token}` };
}

const log = createLog('test', 'silent');

/** Order, stock and payment as one server on a free port. */
export function startPeers(peers: Peers): ReturnType<typeof servePeers> {
  return servePeers(peers, tokens);
}

export interface RunningEdge {
  readonly url: string;
  readonly port: number;
  readonly metricsUrl: string;
  stop(): Promise<void>;
}

/** Starts an edge on free ports; `variables` are added to its environment. */
export async function startEdge(
  peersPort: number,
  variables: Readonly<Record<string, string>> = {},
  overrides: Omit<Overrides, 'log'> = {},
): Promise<RunningEdge> {
  const config = readConfig({
    SLUICE_EDGE_PORT: '0',
    SLUICE_EDGE_METRICS_PORT: '0',
    SLUICE_EDGE_DRAIN_MS: '0',
    SLUICE_ORDER_ADDRESS: `127.0.0.1:${peersPort}`,
    SLUICE_STOCK_ADDRESS: `127.0.0.1:${peersPort}`,
    SLUICE_PAYMENT_ADDRESS: `127.0.0.1:${peersPort}`,
    SLUICE_TOKEN_SECRET: tokenSecret,
    ...variables,
  });
  const { port, metricsPort, lifecycle } = await compose(config, { ...overrides, log });
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    metricsUrl: `http://127.0.0.1:${metricsPort}`,
    stop: () => lifecycle.stop(),
  };
}

/** An edge and its peers for all tests of a file; it runs from their `before` to their `after`. */
export interface EdgeUnderTest extends Omit<RunningEdge, 'stop'> {
  readonly peers: Peers;
  readonly peersPort: number;
}

export function useEdge(variables: Readonly<Record<string, string>> = {}): EdgeUnderTest {
  const peers = new Peers();
  let server: Awaited<ReturnType<typeof startPeers>>;
  let edge: RunningEdge;
  before(async () => {
    server = await startPeers(peers);
    edge = await startEdge(server.port, variables);
    await until(async () => (await fetch(`${edge.url}/readyz`)).status === 200);
  });
  after(async () => {
    await edge?.stop();
    await server?.stop();
  });
  return {
    peers,
    get peersPort() {
      return server.port;
    },
    get url() {
      return edge.url;
    },
    get port() {
      return edge.port;
    },
    get metricsUrl() {
      return edge.metricsUrl;
    },
  };
}

/** Asks until the answer is wanted, at most for half a minute. */
export function until(wanted: () => Promise<boolean>): Promise<void> {
  return eventually(wanted, 'what the test waits for');
}

/** An error answer, as far as tests look at it. */
export interface ProblemBody {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly reason: string;
  readonly instance: string;
  readonly skuId?: string;
  readonly violations?: { field: string; description: string }[];
}
