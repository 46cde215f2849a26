import type { ServiceProcess } from '../support/service-process.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';
import { startSystem } from '../support/system.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { buyers } from './buyers.ts';
import { assertRecovered, assertUnharmed, runTrial } from './harness.ts';

// One of two copies of stock is frozen in the middle of a post, with rows of SKUs locked: five seconds later
// at most the other copy sells all SKUs, those too. The server ends the abandoned transaction by itself.

const skuIds = Array.from({ length: 10 }, (_, index) => 7_101n + BigInt(index));
/** The database's rest for a silent transaction, and the moment until a silent peer is given up. */
const graceMs = 5_000;
/** What a post sends once it has the locks of its SKUs. */
const secondMessage = 'INSERT INTO stock_holds';

const { testOnEach } = await sqlServers();

testOnEach(
  'a copy of stock frozen in the middle of a post harms what it had in hand',
  async (server) => {
    const wire = await startFreezingWire(server);
    const system = await startSystem({
      name: 'frozenstock',
      mysqlUrls: [server.url],
      orders: 2,
      stocks: 2,
      envOf: (service, index): Readonly<Record<string, string>> =>
        service === 'stock' && index === 0 ? { SLUICE_MYSQL_URLS: wire.url } : {},
    });
    try {
      for (const skuId of skuIds) await system.createSku({ skuId, supplied: 1_000_000n });
      const [victim] = system.stocks as [ServiceProcess];
      const group = buyers({
        label: 'frozen',
        perSecond: 80,
        skuIds,
        firstUserId: 1n,
        client: (number) => system.order(number % 2),
      });
      const { all } = await runTrial({
        groups: { all: group },
        bad: {
          on: () => wire.freeze(victim),
          off: async () => void process.kill(victim.process.pid, 'SIGCONT'),
        },
        beforeMs: 3_000,
        graceMs,
        duringMs: 4_000,
        recoveryMs: 1_000,
        afterMs: 2_000,
      });
      assertUnharmed(all, 'buyers five seconds after the freeze');
      assertRecovered(all, 'buyers behind it');
    } finally {
      await system.close();
      await wire.stop();
    }
  },
);

/** A way to the server on which a process is stopped when its post holds locks; what it says then is lost. */
async function startFreezingWire({ url, port }: SqlServer) {
  let frozen: (() => void) | undefined;
  let victim: ServiceProcess | undefined;
  const proxy = await startTcpProxy(port, {
    onClientData(data) {
      if (victim === undefined || !data.includes(secondMessage)) return data;
      process.kill(victim.process.pid, 'SIGSTOP');
      victim = undefined;
      frozen?.();
      return Buffer.alloc(0);
    },
  });
  return {
    url: Object.assign(new URL(url), { port: String(proxy.port) }).href,
    freeze: (process: ServiceProcess) =>
      new Promise<void>((resolve) => {
        frozen = resolve;
        victim = process;
      }),
    stop: () => proxy.stop(),
  };
}
