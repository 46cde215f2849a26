import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServiceProcess } from '../support/service-process.ts';
import { type SqlServer, sqlServers } from '../support/sql-servers.ts';
import { startSystem } from '../support/system.ts';
import { buyers } from './buyers.ts';
import { assertRecovered, assertUnharmed, runTrial } from './harness.ts';

// One of two copies of stock is frozen in the middle of a post, with rows of SKUs locked: five seconds later
// at most the other copy sells all SKUs, those too. The server ends the abandoned transaction by itself.

const skuIds = Array.from({ length: 10 }, (_, index) => 7_101n + BigInt(index));
/** The database's rest for a silent transaction, and the moment until a silent peer is given up. */
const graceMs = 5_000;
const freezesMax = 300;
const lookEveryMs = 150;

const { testOnEach } = await sqlServers();

testOnEach(
  'a copy of stock frozen in the middle of a post harms what it had in hand',
  async (server) => {
    const system = await startSystem({
      name: 'frozenstock',
      mysqlUrls: [server.url],
      orders: 2,
      stocks: 2,
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
          on: () => freezeInPost(server, victim, `${system.prefix}_stock`),
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
    }
  },
);

/** Freezes a process again and again, until it holds locked rows while it is frozen. */
async function freezeInPost(
  server: SqlServer,
  { process: victim }: ServiceProcess,
  database: string,
): Promise<void> {
  const holders = async (): Promise<string[]> => {
    const rows = await server.sql<{ id: string }>(
      `SELECT CAST(t.trx_id AS CHAR) AS id FROM information_schema.innodb_trx t
       JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
       WHERE p.db = '${database}' AND t.trx_rows_locked > 0 AND t.trx_query IS NULL`,
    );
    return rows.map(({ id }) => id);
  };
  for (let freeze = 0; freeze < freezesMax; freeze += 1) {
    process.kill(victim.pid, 'SIGSTOP');
    const first = await holders();
    if (first.length > 0) {
      await sleep(lookEveryMs);
      const still = await holders();
      if (first.some((id) => still.includes(id))) return;
    }
    process.kill(victim.pid, 'SIGCONT');
    await sleep(7);
  }
  assert.fail('the copy was never frozen in the middle of a post');
}
