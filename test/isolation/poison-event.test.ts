import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Connection, createConnection } from 'mysql2/promise';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import {
  createEventPublisher,
  type EventMessage,
  type EventPublisher,
} from '../../services/runtime/event-publisher.ts';
import { orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { sluice } from '../operator/run-sluice.ts';
import { breakRow, reservation } from '../stock/support.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers, mysqlUrl } from '../support/servers.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import { assertRecovered, type Group, runTrial } from './harness.ts';

// An event that cannot take effect is set aside, and everything else takes effect within seconds.

const held = 1;
const released = 3;
const [good, damaged, deleted, locked] = [1n, 2n, 3n, 4n];
const bounds = { withinMs: 120_000, everyMs: 100 };
const slow = { timeout: 600_000 };
/** What "within seconds" is, for an event that normally takes half of one. */
const secondsMs = 5_000;
let system: System;
let publisher: EventPublisher;
let topic: string;

before(async () => {
  // The orders exist only as events, so no sweep may come to ask for them.
  const env = { SLUICE_SETTLE_AGE_MS: '600000', SLUICE_REDIS_TIMEOUT_MS: '5000' };
  system = await startSystem({ name: 'poison', orders: 0, env });
  topic = orderEventsTopic(`${system.prefix}.`);
  const log = createLog('test', 'silent');
  publisher = createEventPublisher({ clientId: 'test', brokers: kafkaBrokers.split(','), log });
  for (const skuId of [good, damaged, deleted, locked]) {
    await system.createSku({ skuId, supplied: 10_000n });
  }
});
after(async () => {
  await publisher?.close();
  await system?.close();
});

/** Orders of one unit each that the ledger holds. */
async function newOrders(skuId: bigint, count: number): Promise<bigint[]> {
  const reservations = Array.from({ length: count }, () => reservation([skuId]));
  const { results } = await system.stock.reserveStock({ reservations });
  assert(results.every(({ outcome }) => outcome?.$case === 'reserved'));
  return reservations.map(({ orderId }) => orderId);
}

/** Events with one key are in one partition. */
function cancelled(orderId: bigint, key = String(orderId)): EventMessage {
  const event = { orderId, userId: 1n, version: 2, status: OrderStatus.ORDER_STATUS_CANCELLED };
  return { key, value: OrderEvent.encode(OrderEvent.fromPartial(event)).finish() };
}

async function publish(messages: readonly EventMessage[]): Promise<void> {
  await publisher.publish(topic, messages, Deadline.after(20_000));
}

async function inState(orderIds: readonly bigint[], state: number): Promise<number> {
  const [rows] = await system.stockPool.query(
    'SELECT COUNT(*) AS found FROM stock_holds WHERE order_id IN (?) AND state = ?',
    [orderIds, state],
  );
  return Number((rows as { found: string }[])[0]?.found);
}

interface Letter {
  readonly kind: string;
  readonly group: string;
  readonly reason: string;
  readonly value: string;
  readonly replayed: boolean;
}

async function letters(): Promise<Letter[]> {
  const group = `${system.prefix}.stock-ledger`;
  const { code, stdout, stderr } = await sluice(
    ['dlq', 'list', '--json', '--group', group],
    system.env,
  );
  assert.equal(code, 0, stderr);
  return (JSON.parse(stdout) as Letter[]).filter(({ replayed }) => !replayed);
}

function letterOf(found: readonly Letter[], orderId: bigint): Letter | undefined {
  const value = Buffer.from(cancelled(orderId).value).toString('base64');
  return found.find((letter) => letter.value === value);
}

async function replay(): Promise<void> {
  const { code, stderr } = await sluice(['dlq', 'replay'], system.env);
  assert.equal(code, 0, stderr);
}

async function lag(): Promise<number> {
  const { metricsPort } = system.stocks[0] as ServiceProcess;
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  const line = text.split('\n').find((one) => one.startsWith('consumer_lag{'));
  return Number(line?.split(' ').at(-1) ?? Number.NaN);
}

test(
  '300 orders behind poison of each kind in one partition are followed; the poison is set aside and comes back',
  slow,
  async () => {
    const [before, behind] = [await newOrders(good, 200), await newOrders(good, 100)];
    const [[bent], [orphan]] = [await newOrders(damaged, 1), await newOrders(deleted, 1)];
    const poison = [bent as bigint, orphan as bigint];
    const damage = (by: string) =>
      breakRow(system.stockPool, `UPDATE skus SET sold = sold ${by} WHERE sku_id = ?`, [damaged]);
    await damage('+ 1');
    await system.stockPool.query('CREATE TABLE kept_skus AS SELECT * FROM skus WHERE sku_id = ?', [
      deleted,
    ]);
    await system.stockPool.query('DELETE FROM skus WHERE sku_id = ?', [deleted]);
    const key = 'of one partition';
    await publish([
      ...before.map((orderId) => cancelled(orderId, key)),
      ...poison.map((orderId) => cancelled(orderId, key)),
      { key, value: Buffer.from('no event at all') },
      ...behind.map((orderId) => cancelled(orderId, key)),
    ]);
    const all = [...before, ...behind];
    await eventually(
      async () => (await inState(all, released)) === all.length,
      'all 300 orders give their units back',
      bounds,
    );
    await eventually(async () => (await letters()).length === 3, 'three letters are kept', bounds);
    await eventually(async () => (await lag()) === 0, 'nothing is left to consume', bounds);
    const found = await letters();
    assert.match(letterOf(found, bent as bigint)?.reason ?? '', /CONSTRAINT|constraint/);
    assert.ok(letterOf(found, orphan as bigint));
    assert.equal(await inState(poison, held), 2);

    await damage('- 1');
    await system.stockPool.query('INSERT INTO skus SELECT * FROM kept_skus');
    await replay();
    await eventually(
      async () => (await inState(poison, released)) === 2,
      'what was mended takes effect when it is replayed',
      bounds,
    );
  },
);

test(
  'while the row of one SKU is locked the events of others take effect as before; its own is set aside',
  slow,
  async () => {
    const [stuck] = (await newOrders(locked, 1)) as [bigint];
    let holder: Connection | undefined;
    const others: Group = {
      perSecond: 5,
      async send() {
        const orders = await newOrders(good, 1);
        await publish(orders.map((orderId) => cancelled(orderId)));
        const isFollowed = async (): Promise<boolean> => (await inState(orders, released)) === 1;
        await eventually(isFollowed, 'the order is followed', { withinMs: 20_000, everyMs: 50 });
        return { outcome: 'made' };
      },
    };
    const phases = await runTrial({
      groups: { others },
      bad: {
        async on() {
          holder = await createConnection({ uri: mysqlUrl, database: `${system.prefix}_stock` });
          await holder.query('START TRANSACTION');
          await holder.query('SELECT sku_id FROM skus WHERE sku_id = ? FOR UPDATE', [locked]);
          // In every partition, so that none of the others' is without it.
          await publish(Array.from({ length: 40 }, (_, at) => cancelled(stuck, `key ${at}`)));
        },
        async off() {
          await holder?.query('ROLLBACK');
          await holder?.end();
        },
      },
      duringMs: 12_000,
      afterMs: 3_000,
    });
    const { before, during } = phases.others;
    const figures = JSON.stringify({ before, during });
    assert.ok(before.made > 0 && during.sent > 0 && during.made === during.sent, figures);
    assert.ok(during.madeMs.p99 <= Math.max(secondsMs, 2 * before.madeMs.p99), figures);
    assertRecovered(phases.others, 'the events of other SKUs');
    await eventually(
      async () => letterOf(await letters(), stuck) !== undefined,
      'the event is set aside',
      bounds,
    );
    await replay();
    await eventually(
      async () => (await inState([stuck], released)) === 1,
      'it takes effect when it is replayed',
      bounds,
    );
    const { gate, ledger } = await system.admin.getStockLayers({ skuId: locked });
    assert.deepEqual([gate?.available, ledger?.available], [10_000n, 10_000n], 'credited once');
  },
);
