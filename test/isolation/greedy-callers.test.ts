import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { slotOfUser } from '../../services/order/order-id.ts';
import { type LockedRows, lockRows } from '../support/locked-rows.ts';
import { mysqlUrl } from '../support/servers.ts';
import { type System, startSystem } from '../support/system.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { buyers } from './buyers.ts';
import { assertRecovered, assertUnharmed, type Group, runTrial } from './harness.ts';
import { usersOfDatabase } from './users-of-database.ts';

// A caller who waits for 40 s, and whose orders hang in one of the two databases: buyers who wait for 2 s, in
// the very process, database and tables, notice nothing.

const patientMs = 40_000;
const skuIds = Array.from({ length: 20 }, (_, index) => 7_301n + BigInt(index));
const slow = { timeout: 240_000 };

let proxy: TcpProxy;
let system: System;
let nearUsers: bigint[];
/** Users of the database behind the proxy; some of them are the patient caller's. */
let farUsers: bigint[];
let patientUsers: bigint[];

before(async () => {
  proxy = await startTcpProxy(Number(new URL(mysqlUrl).port));
  const far = `mysql://root@127.0.0.1:${proxy.port}`;
  system = await startSystem({ name: 'greedy', mysqlUrls: [mysqlUrl, far] });
  for (const skuId of skuIds) await system.createSku({ skuId, supplied: 1_000_000_000n });
  nearUsers = await usersOfDatabase(system, 0);
  const users = await usersOfDatabase(system, 1);
  [patientUsers, farUsers] = [users.slice(0, 60), users.slice(60)];
});

after(async () => {
  await system?.close();
  await proxy?.stop();
});

const client = () => system.order();

/** Each attempt has a user of its own, so that each has a row of its own that may be locked. */
function patientCaller(label: string, perSecond: number): Group {
  const group = { label, perSecond, skuIds, userIds: patientUsers };
  return buyers({ ...group, budgetMs: patientMs, client });
}

interface Groups {
  readonly near: Group;
  readonly far: Group;
  readonly patient: Group;
}

function groupsOf(label: string, perSecond: number): Groups {
  const each = { perSecond: 30, skuIds, client };
  return {
    near: buyers({ ...each, label: `${label}-near`, userIds: nearUsers }),
    far: buyers({ ...each, label: `${label}-far`, userIds: farUsers }),
    patient: patientCaller(`${label}-patient`, perSecond),
  };
}

/** Rows of the patient caller's orders, written by a transaction that does not end. */
function rowsOfPatient(label: string): string[] {
  return patientUsers.map((userId, number) => {
    const table = `orders_0${tableOf(userId)}`;
    return `INSERT IGNORE INTO ${table} (order_id, user_id, request_id, fingerprint, status, create_time,
      expire_time, update_time) VALUES (${number + 1}, ${userId}, '${label}-patient-${number}',
      REPEAT('x', 16), 1, NOW(3), NOW(3), NOW(3))`;
  });
}

let slots: [number, number][];
function tableOf(userId: bigint): number {
  return slots[slotOfUser(userId)]?.[1] ?? 0;
}

test('a caller who waits for 40 s for locked rows keeps nobody waiting', slow, async () => {
  const [rows] = await (system.orderPools[1] as System['stockPool']).query(
    'SELECT slots FROM slot_map WHERE id = 1',
  );
  slots = JSON.parse(String((rows as { slots: unknown }[])[0]?.slots));
  let lock: LockedRows | undefined;
  const { near, far, patient } = await runTrial({
    groups: groupsOf('locked', 1),
    bad: {
      on: async () => {
        lock = await lockRows(`${system.prefix}_order_1`, rowsOfPatient('locked'));
      },
      off: async () => await lock?.release(),
    },
    beforeMs: 3_000,
    graceMs: 500,
    duringMs: 5_000,
    recoveryMs: 1_000,
    afterMs: 2_000,
  });
  for (const [who, phases] of Object.entries({ near, far })) {
    assertUnharmed(phases, `buyers of the ${who} database`);
    assertRecovered(phases, `buyers of the ${who} database`);
  }
  const { during } = patient;
  // Who came in the last moment of the locks was served behind them.
  assert.ok(during.made <= during.sent / 2, `the locks held: ${JSON.stringify(during)}`);
  assertRecovered(patient, 'the patient caller');
});

test(
  'a caller who waits for 40 s on connections that are dead keeps nobody waiting',
  slow,
  async () => {
    const { near, far } = await runTrial({
      groups: groupsOf('silent', 15),
      bad: {
        on: async () => proxy.silence(),
        off: async () => undefined,
      },
      beforeMs: 3_000,
      // Until calls over them have taken as long as the impatient wait, and a little.
      graceMs: 5_000,
      duringMs: 5_000,
      afterMs: 0,
    });
    assertUnharmed(near, 'buyers of the other database');
    assertUnharmed(far, 'buyers of the same database');
  },
);
