import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTokens } from '../../services/runtime/tokens.ts';
import { Peers, servePeers } from '../edge/peers.ts';
import { freePorts, startServiceProcess } from '../support/service-process.ts';

const tokenSecret = 'a secret for the tests of hostile clients, long enough';
const tokens = createTokens({ secret: tokenSecret });

/** An edge in a process of its own, whose services are played by this one. */
export interface EdgeProcess {
  readonly peers: Peers;
  readonly port: number;
  readonly url: string;
  /** The `authorization` header of a user. */
  bearer(userId: bigint): string;
  /** Descriptors that the process has open. */
  descriptors(): number;
  /** Bytes of memory that the process holds. */
  residentBytes(): number;
  /** The value of a metric, summed over its labels; 0 if there is none. The name may be a pattern. */
  metric(name: string): Promise<number>;
  close(): Promise<void>;
}

export async function startEdgeProcess(
  env: Readonly<Record<string, string>> = {},
): Promise<EdgeProcess> {
  const peers = new Peers();
  const served = await servePeers(peers, tokens);
  const dir = mkdtempSync(join(tmpdir(), 'sluice-'));
  const [ports] = await freePorts(1);
  const address = `127.0.0.1:${served.port}`;
  const edge = await startServiceProcess({
    service: 'edge',
    ports: ports as readonly [number, number],
    dir,
    env: {
      SLUICE_ORDER_ADDRESS: address,
      SLUICE_STOCK_ADDRESS: address,
      SLUICE_PAYMENT_ADDRESS: address,
      SLUICE_TOKEN_SECRET: tokenSecret,
      SLUICE_EDGE_DRAIN_MS: '0',
      ...env,
    },
  });
  const { pid } = edge.process;
  return {
    peers,
    port: edge.port,
    url: `http://127.0.0.1:${edge.port}`,
    bearer: (userId) => `Bearer ${tokens.sign({ userId, ttlSeconds: 600 }).token}`,
    descriptors: () => readdirSync(`/proc/${pid}/fd`).length,
    residentBytes() {
      const [, kilobytes] =
        /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
      return Number(kilobytes) * 1_024;
    },
    async metric(name) {
      const text = await (await fetch(`http://127.0.0.1:${edge.metricsPort}/metrics`)).text();
      const values = text.matchAll(new RegExp(`^${name}\\b.* (\\S+)$`, 'gm'));
      return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
    },
    async close() {
      await edge.process.stop();
      await served.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
