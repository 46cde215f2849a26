import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import type { RowDataPacket } from 'mysql2';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OutboxBatch } from '../../gen/sluice/event/v1/outbox.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Pool } from '../../services/runtime/mysql.ts';
import { sluice } from '../operator/run-sluice.ts';
import { eventually } from '../support/eventually.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import { answered } from '../support/workload.ts';
import { type Group, runTrial } from './harness.ts';

// A row of the outbox that cannot be published stops only itself; a relay that hangs, only for seconds, what it has.

const skuId = 1n;
const released = 3;
const bounds = { withinMs: 120_000, everyMs: 100 };
const slow = { timeout: 600_000 };
/** What "within seconds" is, for an event that normally takes half of one. */
const secondsMs = 5_000;
/** More than one message may have. */
const tooLargeBytes = 1_500_000;
let system: System;
const run = promisify(execFile);

before(async () => {
  system = await startSystem({
    name: 'outbox',
    orders: 2,
    // So that a row which waits for ever would soon have orders refused.
    env: { SLUICE_ORDER_OUTBOX_SECONDS: '5' },
  });
  await system.createSku({ skuId, supplied: 10_000n });
});
after(() => system?.close());

let lastUser = 0n;

/** Buys and cancels, which gives the unit back as soon as the events are followed. */
async function buyAndCancel(copy = 0): Promise<bigint> {
  lastUser += 1n;
  const request = { userId: lastUser, requestId: 'one', lines: [{ skuId, quantity: 1 }] };
  const { order } = await system.order(copy).createOrder(request);
  const orderId = order?.orderId as bigint;
  await answered(() => system.order(copy).cancelOrder({ orderId, userId: 0n }));
  return orderId;
}

async function holdState(orderId: bigint): Promise<number> {
  const sql = 'SELECT state FROM stock_holds WHERE order_id = ?';
  const [[row]] = await system.stockPool.query<RowDataPacket[]>(sql, [orderId]);
  return Number(row?.state);
}

async function untilReleased(orderId: bigint, withinMs: number): Promise<void> {
  const isReleased = async (): Promise<boolean> => (await holdState(orderId)) === released;
  await eventually(isReleased, `order ${orderId} is followed`, { withinMs, everyMs: 50 });
}

async function insertRow(pool: Pool, payload: Uint8Array): Promise<void> {
  const sql = 'INSERT INTO outbox (payload, create_time) VALUES (?, UTC_TIMESTAMP(3))';
  await pool.query(sql, [Buffer.from(payload)]);
}

function batchOf(key: bigint, value: Uint8Array): Uint8Array {
  return OutboxBatch.encode({ messages: [{ key, value: Buffer.from(value) }] }).finish();
}

function cancelled(orderId: bigint): Uint8Array {
  const event = { orderId, userId: 1n, version: 2, status: OrderStatus.ORDER_STATUS_CANCELLED };
  return OrderEvent.encode(OrderEvent.fromPartial(event)).finish();
}

/** Whether a process is stopped, as by SIGSTOP. */
async function isStopped({ process: child }: ServiceProcess): Promise<boolean> {
  const { stdout } = await run('ps', ['-o', 'state=', '-p', String(child.pid)]);
  return stdout.trim().startsWith('T');
}

interface Aside {
  readonly kind: string;
  readonly database: string;
  readonly id: string;
  readonly reason: string;
  readonly waits: boolean;
}

async function asides(): Promise<Aside[]> {
  const { code, stdout, stderr } = await sluice(
    ['dlq', 'list', '--json', '--kind', 'outbox'],
    system.env,
  );
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}

async function refusedRows({ metricsPort }: ServiceProcess): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  const lines = text
    .split('\n')
    .filter((line) => line.startsWith('outbox_set_aside{') && line.includes('state="refused"'));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

test(
  'rows that cannot be read or are refused are set aside, the others go on, and orders are taken',
  slow,
  async () => {
    const [pool] = system.orderPools as [Pool];
    // An order whose cancelling is told by a damaged row alone.
    lastUser += 1n;
    const request = { userId: lastUser, requestId: 'victim', lines: [{ skuId, quantity: 1 }] };
    const { order } = await answered(() => system.order().createOrder(request));
    const victim = order?.orderId as bigint;
    const whole = batchOf(victim, cancelled(victim));
    const others: Group = {
      perSecond: 5,
      async send(number) {
        await untilReleased(await buyAndCancel(number % 2), 20_000);
        return { outcome: 'made' };
      },
    };
    const phases = await runTrial({
      groups: { others },
      bad: {
        async on() {
          await insertRow(pool, Buffer.from('no batch at all'));
          await insertRow(pool, whole.subarray(0, whole.length - 5));
          await insertRow(pool, batchOf(7n, Buffer.alloc(tooLargeBytes, 1)));
        },
        async off() {},
      },
      // Longer than the age at which the guard refuses orders.
      duringMs: 10_000,
      afterMs: 1_000,
    });
    const { before, during } = phases.others;
    const figures = JSON.stringify({ before, during });
    assert.ok(before.made > 0 && during.sent > 0 && during.made === during.sent, figures);
    assert.ok(during.madeMs.p99 <= Math.max(secondsMs, 2 * before.madeMs.p99), figures);

    const found = await asides();
    assert.equal(found.length, 3);
    assert.ok(found.every(({ kind, waits }) => kind === 'outbox' && !waits));
    const reasons = found.map(({ reason }) => reason).join('\n');
    assert.equal(reasons.match(/cannot be read/g)?.length, 2, reasons);
    assert.match(reasons, /larger than the max message size/);
    const [copy] = system.orders as [ServiceProcess];
    await eventually(async () => (await refusedRows(copy)) === 3, 'a metric shows them', bounds);

    // The operator mends one row and has all tried again: those that are still bad come back.
    await pool.query('UPDATE outbox_set_aside SET payload = ? WHERE LENGTH(payload) = ?', [
      Buffer.from(whole),
      whole.length - 5,
    ]);
    const { code, stdout } = await sluice(['dlq', 'replay'], system.env);
    assert.equal(code, 0);
    assert.match(stdout, /3 outbox rows were replayed\./);
    await untilReleased(victim, bounds.withinMs);
    const isBack = async (): Promise<boolean> => {
      const left = await asides();
      return left.length === 2 && left.every(({ waits }) => !waits);
    };
    await eventually(isBack, 'two rows are set aside again', bounds);
  },
);

test('a relay that hangs holds what it has claimed for a few seconds only', slow, async () => {
  const hanging = system.orders[1] as ServiceProcess;
  await hanging.restart({ SLUICE_FAILPOINTS: 'relay.before_publish:stop' });
  const claimed = async (): Promise<number[]> => {
    const lasting: number[] = [];
    for (const pool of system.orderPools) {
      const [rows] = await pool.query<RowDataPacket[]>(
        `SELECT TIMESTAMPDIFF(MICROSECOND, NOW(3), owned_until) AS left_us FROM outbox
         WHERE owned_until > NOW(3)`,
      );
      lasting.push(...rows.map((row) => Number(row.left_us) / 1_000));
    }
    return lasting;
  };
  try {
    const orders: bigint[] = [];
    const isHanging = async (): Promise<boolean> => {
      orders.push(await buyAndCancel(0));
      return await isStopped(hanging);
    };
    await eventually(isHanging, 'the other copy has claimed rows and hangs', bounds);
    const longestMs = Math.max(0, ...(await claimed()));
    assert.ok(longestMs <= secondsMs, `claims last ${longestMs} ms at most`);
    for (const orderId of orders) await untilReleased(orderId, bounds.withinMs);
  } finally {
    await hanging.kill();
    await hanging.restart();
  }
});
