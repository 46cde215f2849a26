import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createConnection } from 'mysql2/promise';
import { composeOrderId, slotOfUser, workerCount } from '../../services/order/order-id.ts';
import { holdState } from '../../services/stock/hold-states.ts';
import { eventually } from '../support/eventually.ts';
import { expectNoBreaches } from '../support/invariants.ts';
import { mysqlUrl } from '../support/servers.ts';
import { startSqlServer } from '../support/sql-servers.ts';
import { type System, type SystemOptions, startSystem } from '../support/system.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { buyers } from './buyers.ts';
import { assertRecovered, assertUnharmed, type Phases, runTrial } from './harness.ts';

// One of two order databases is gone: its users are refused at once and nothing is reserved for them; users
// of the other one buy, lost holds of theirs come back, and every process is ready.

const livingSku = 7_201n;
const deadSku = 7_202n;
const settleAgeMs = 3_000;
/** Until the loss is noticed; a server that hangs is found out by what it does not answer. */
const graceMs = 5_000;
/** Longer than worker leases last. */
const duringMs = 6_000;
/** Sent within the moment between the end of the measurement and the return of the database. */
const lastOnesMax = 4;
const slow = { timeout: 240_000 };

interface Loss {
  /** The database that goes. */
  readonly index: number;
  on(): Promise<void>;
  off(): Promise<void>;
}

async function startShop(options: Partial<SystemOptions>): Promise<System> {
  const system = await startSystem({
    name: 'deaddb',
    orders: 2,
    stocks: 2,
    env: { SLUICE_SETTLE_AGE_MS: String(settleAgeMs) },
    ...options,
  });
  for (const skuId of [livingSku, deadSku]) {
    await system.createSku({ skuId, supplied: 1_000_000n });
  }
  return system;
}

/** Users whose orders are in a database. */
async function usersOf(system: System, index: number): Promise<bigint[]> {
  const [rows] = await (system.orderPools[0] as System['stockPool']).query(
    'SELECT slots FROM slot_map WHERE id = 1',
  );
  const slots = JSON.parse(String((rows as { slots: unknown }[])[0]?.slots)) as [number, number][];
  const users = Array.from({ length: 2_000 }, (_, number) => 10_000n + BigInt(number));
  return users.filter((user) => slots[slotOfUser(user)]?.[0] === index);
}

async function heldOf({ stockPool }: System, skuId: bigint): Promise<number> {
  const [rows] = await stockPool.query('SELECT held FROM skus WHERE sku_id = ?', [skuId]);
  return Number((rows as { held: string }[])[0]?.held);
}

/** Reserves for an order that never comes, of a user of the database that lives. */
async function leaveHold({ stock }: System, userId: bigint): Promise<bigint> {
  const orderId = composeOrderId(Date.now(), slotOfUser(userId), workerCount - 1, 1);
  const reservation = {
    ...{ orderId, userId, requestId: 'left', fingerprint: Buffer.alloc(16, 1) },
    lines: [{ skuId: livingSku, quantity: 1 }],
  };
  const { results } = await stock.reserveStock({ reservations: [reservation] });
  assert.equal(results[0]?.outcome?.$case, 'reserved');
  return orderId;
}

async function assertOnlyItsOwn(system: System, loss: Loss): Promise<void> {
  const [living, dead] = [await usersOf(system, 1 - loss.index), await usersOf(system, loss.index)];
  const common = { perSecond: 40, client: (number: number) => system.order(number % 2) };
  let left = 0n;
  let heldAtTheEnd = 0;
  const phases = await runTrial({
    groups: {
      living: buyers({ ...common, label: 'living', skuIds: [livingSku], userIds: living }),
      dead: buyers({ ...common, label: 'dead', skuIds: [deadSku], userIds: dead }),
    },
    bad: {
      async on() {
        await loss.on();
        left = await leaveHold(system, living[0] as bigint);
      },
      async off() {
        heldAtTheEnd = await heldOf(system, deadSku);
        await eventually(
          async () => (await stateOf(system, left)) === holdState.RELEASED,
          'a lost hold comes back',
        );
        await assertReady(system);
        await loss.off();
      },
    },
    beforeMs: 3_000,
    graceMs,
    duringMs,
    recoveryMs: 3_000,
    afterMs: 3_000,
  });
  assertUnharmed(phases.living, 'users of the database that lives');
  assertRecovered(phases.living, 'users of the database that lived');
  assertRefused(phases.dead, heldAtTheEnd);
  assertRecovered(phases.dead, 'users of the database that is back');
  await expectNoBreaches(system);
}

async function stateOf({ stockPool }: System, orderId: bigint): Promise<number | undefined> {
  const [rows] = await stockPool.query('SELECT state FROM stock_holds WHERE order_id = ?', [
    orderId,
  ]);
  return (rows as { state: number }[])[0]?.state;
}

async function assertReady({ processes }: System): Promise<void> {
  for (const { service, metricsPort } of processes) {
    const response = await fetch(`http://127.0.0.1:${metricsPort}/readyz`);
    assert.equal(response.status, 200, `${service}: ${await response.text()}`);
  }
}

/** Told "not now" at once, and nothing held for whom the loss could be known. */
function assertRefused({ before, grace, during }: Phases, held: number): void {
  const figures = JSON.stringify({ grace, during, held });
  // The last of them may be sent in the very moment in which the database comes back.
  assert.deepEqual(Object.keys(during.reasons), ['DEPENDENCY_DOWN'], figures);
  assert.equal(during.unserved + during.made, during.sent, figures);
  assert.ok(during.made <= lastOnesMax, figures);
  assert.ok(during.otherMs.p50 <= Math.max(before.madeMs.p50, 100), figures);
  assert.ok(held <= before.made + grace.made + grace.unknown, figures);
}

test(
  'a database that breaks its connections, worker numbers and the first place of the map with it',
  slow,
  async () => {
    const name = (system: System) => `${system.prefix}_order_0`;
    const target = Number(new URL(mysqlUrl).port);
    let refused: string | undefined;
    const proxy = await startTcpProxy(target, {
      onClientData: (data) => (refused && data.includes(refused) ? undefined : data),
    });
    const system = await startShop({ mysqlUrls: [`mysql://root@127.0.0.1:${proxy.port}`] });
    const admin = await createConnection({ uri: mysqlUrl });
    try {
      await assertOnlyItsOwn(system, {
        index: 0,
        async on() {
          refused = name(system);
          const [rows] = await admin.query(
            `SELECT id FROM information_schema.processlist WHERE db = '${refused}'`,
          );
          for (const { id } of rows as { id: number }[]) {
            await admin.query(`KILL ${id}`).catch(() => undefined);
          }
        },
        off: async () => {
          refused = undefined;
        },
      });
    } finally {
      await system.close();
      await admin.end();
      await proxy.stop();
    }
  },
);

test('a database whose server hangs', slow, async () => {
  const server = await startSqlServer('MariaDB');
  const system = await startShop({ mysqlUrls: [mysqlUrl, server.url] });
  try {
    await assertOnlyItsOwn(system, {
      index: 1,
      on: async () => void process.kill(server.process().pid, 'SIGSTOP'),
      off: async () => void process.kill(server.process().pid, 'SIGCONT'),
    });
  } finally {
    await system.close();
    await server.stop();
  }
});
