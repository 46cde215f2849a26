import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createKafka, orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { eventually } from '../support/eventually.ts';
import { expectAllAtRest } from '../support/expect-at-rest.ts';
import { paySession } from '../support/life-workload.ts';
import { kafkaBrokers } from '../support/servers.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import { answered } from '../support/workload.ts';

// No promise rests on Kafka: what it loses, the ledger learns from the orders themselves.

const skuId = 1n;
const supplied = 100n;
const userId = 4_711n;
const paid = 2;
const refunded = 4;
/** What normally takes a few seconds. */
const bounds = { withinMs: 90_000 };
let system: System;

before(async () => {
  system = await startSystem({
    name: 'kafkaless',
    payments: 1,
    events: true,
    env: {
      SLUICE_SETTLE_AGE_MS: '2000',
      SLUICE_STOCK_RECHECK_AGE_SECONDS: '1',
      SLUICE_PAYMENT_POLL_MS: '1000',
    },
  });
  await system.createSku({ skuId, supplied });
});
after(() => system?.close());

async function buy(requestId: string): Promise<bigint> {
  const lines = [{ skuId, quantity: 2 }];
  const request = { userId, requestId, lines };
  const { order } = await answered(() => system.order().createOrder(request));
  return order?.orderId as bigint;
}

async function payFor(orderId: bigint): Promise<bigint> {
  const request = { orderId, userId, requestId: `pay-${orderId}` };
  const { payment } = await answered(() => system.payment().createPayment(request));
  await paySession(system, payment?.providerReference as string);
  await untilStatus(orderId, paid);
  return payment?.paymentId as bigint;
}

async function untilStatus(orderId: bigint, status: number): Promise<void> {
  const reached = async (): Promise<boolean> => {
    const { order } = await answered(() => system.order().getOrder({ orderId, userId }));
    return order?.status === status;
  };
  await eventually(reached, `order ${orderId} comes to status ${status}`, bounds);
}

async function untilSwept(orderId: bigint): Promise<void> {
  await eventually(async () => {
    const [rows] = await system.stockPool.query('SELECT order_id FROM sweep_cursor');
    return BigInt((rows as { order_id: string }[])[0]?.order_id ?? 0) >= orderId;
  }, 'the sweep has found the orders alive');
}

async function holdState(orderId: bigint): Promise<number> {
  const sql = 'SELECT state FROM stock_holds WHERE order_id = ?';
  const [rows] = await system.stockPool.query(sql, [orderId]);
  return Number((rows as { state: number }[])[0]?.state);
}

/** Everything the orders have told is in Kafka. */
async function untilPublished(): Promise<void> {
  await eventually(async () => {
    for (const pool of system.orderPools) {
      const [rows] = await pool.query('SELECT COUNT(*) AS waiting FROM outbox');
      if (Number((rows as { waiting: string }[])[0]?.waiting) > 0) return false;
    }
    return true;
  }, 'the outboxes are empty');
}

/** For stock's consumer everything that Kafka has now is lost. */
async function loseEventsOfStock(): Promise<void> {
  const prefix = `${system.prefix}.`;
  const topic = orderEventsTopic(prefix);
  const groupId = `${prefix}stock-ledger`;
  const brokers = kafkaBrokers.split(',');
  const admin = createKafka('test', brokers, createLog('test', 'silent')).admin();
  await admin.connect();
  try {
    await eventually(
      async () => (await admin.describeGroups([groupId])).groups[0]?.state === 'Empty',
      'the group has no member',
      bounds,
    );
    const ends = (await admin.fetchTopicOffsets(topic)).map(({ partition, high }) => {
      return { partition, offset: high };
    });
    assert(ends.some(({ offset }) => offset !== '0'));
    await admin.setOffsets({ groupId, topic, partitions: ends });
    const [committed] = await admin.fetchOffsets({ groupId, topics: [topic] });
    const byPartition = new Map(committed?.partitions.map((one) => [one.partition, one.offset]));
    for (const { partition, offset } of ends) assert.equal(byPartition.get(partition), offset);
  } finally {
    await admin.disconnect();
  }
}

async function mended({ metricsPort }: ServiceProcess, move: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).text();
  const line = text.split('\n').find((one) => {
    return one.startsWith('stock_recheck_mended_total{') && one.includes(`move="${move}"`);
  });
  return Number(line?.split(' ').at(-1) ?? 0);
}

test('orders whose every event Kafka lost come to rest: given back, sold, or still held', {
  timeout: 600_000,
}, async () => {
  const [pending, cancelled, bought, regretted] = [
    await buy('pending'),
    await buy('cancelled'),
    await buy('paid'),
    await buy('refunded'),
  ];
  await untilSwept(regretted);
  const stock = system.stocks[0] as ServiceProcess;
  await stock.process.stop();
  await answered(() => system.order().cancelOrder({ orderId: cancelled, userId }));
  await payFor(bought);
  const paymentId = await payFor(regretted);
  const refund = { paymentId, amount: undefined, requestId: 'all', reason: '', restock: false };
  await answered(() => system.payment().refundPayment(refund));
  await untilStatus(regretted, refunded);
  await untilPublished();
  await loseEventsOfStock();
  for (const orderId of [cancelled, bought, regretted]) assert.equal(await holdState(orderId), 1);

  await stock.restart();
  await eventually(async () => (await holdState(cancelled)) === 3, 'it gives back', bounds);
  await eventually(async () => (await holdState(bought)) === 2, 'it is sold', bounds);
  await eventually(async () => (await holdState(regretted)) === 2, 'it stays sold', bounds);
  assert.equal(await holdState(pending), 1);
  await expectAllAtRest(system);
  assert.deepEqual([await mended(stock, 'release'), await mended(stock, 'sell')], [1, 2]);
  const { gate, ledger } = await system.admin.getStockLayers({ skuId });
  assert.deepEqual([gate?.available, ledger?.available], [supplied - 6n, supplied - 6n]);
});
