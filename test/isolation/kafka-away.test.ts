import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { RowDataPacket } from 'mysql2';
import { type KafkaBroker, startKafka } from '../../deploy/local/kafka.ts';
import { freePort } from '../../deploy/local/port.ts';
import {
  createKafka,
  deadLetterTopic,
  eventPartitions,
  orderEventsTopic,
} from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import type { Pool } from '../../services/runtime/mysql.ts';
import { eventually } from '../support/eventually.ts';
import { expectAllAtRest } from '../support/expect-at-rest.ts';
import { paySession } from '../support/life-workload.ts';
import type { ServiceProcess } from '../support/service-process.ts';
import { type System, startSystem } from '../support/system.ts';
import { answered } from '../support/workload.ts';

// Kafka carries what was decided, and nothing rests on it: lost or away, everything comes from MySQL.

const skuId = 1n;
const supplied = 1_000n;
const held = 1;
const sold = 2;
const released = 3;
const slow = { timeout: 600_000 };
const bounds = { withinMs: 150_000, everyMs: 250 };
const log = createLog('test', 'silent');
let dir: string;
let kafka: KafkaBroker;
let system: System;
let topic: string;

before(async () => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-kafka-'));
  kafka = await startKafka({ dir, port: await freePort(2) });
  system = await startSystem({
    name: 'kafka_away',
    payments: 1,
    events: true,
    env: {
      // Nobody creates its topics: the processes do.
      SLUICE_KAFKA_BROKERS: kafka.brokers,
      SLUICE_SETTLE_AGE_MS: '2000',
      SLUICE_ORDER_EXPIRY_SECONDS: '20',
      SLUICE_STOCK_RECHECK_AGE_SECONDS: '25',
      SLUICE_EVENTS_CATCH_UP_AGE_SECONDS: '2',
      SLUICE_PAYMENT_POLL_MS: '1000',
    },
  });
  topic = orderEventsTopic(`${system.prefix}.`);
  await system.createSku({ skuId, supplied });
});
after(async () => {
  await system?.close();
  await kafka?.stop();
  rmSync(dir, { recursive: true, force: true });
});

async function buy(userId: bigint, requestId = `of-${userId}`): Promise<bigint> {
  const lines = [{ skuId, quantity: 1 }];
  const { order } = await answered(() => system.order().createOrder({ userId, requestId, lines }));
  return order?.orderId as bigint;
}

async function payFor(orderId: bigint, userId: bigint): Promise<void> {
  const request = { orderId, userId, requestId: `pay-${orderId}` };
  const { payment } = await answered(() => system.payment().createPayment(request));
  await paySession(system, payment?.providerReference as string);
  const isPaid = async (): Promise<boolean> => {
    const { order } = await answered(() => system.order().getOrder({ orderId, userId }));
    return order?.status === 2;
  };
  await eventually(isPaid, `order ${orderId} is paid`, bounds);
}

async function count(sql: string, pool = system.eventsPool): Promise<number> {
  const [[row]] = await pool.query<RowDataPacket[]>(`SELECT COUNT(*) AS found FROM ${sql}`);
  return Number(row?.found);
}

/** Orders by id with the version that a table has of them. */
async function versions(pool: Pool, table: string): Promise<Map<string, number>> {
  const [rows] = await pool.query<RowDataPacket[]>(`SELECT order_id, version FROM ${table}`);
  return new Map(rows.map((row) => [String(row.order_id), Number(row.version)]));
}

/** Orders that statistics or warehouse do not have as they are. */
async function ordersBehind(): Promise<string[]> {
  const counted = await versions(system.eventsPool, 'counted_orders');
  const facts = await versions(system.warehousePool, 'order_line_facts');
  const behind: string[] = [];
  for (const pool of system.orderPools) {
    for (const table of ['orders_00', 'orders_01']) {
      for (const [id, version] of await versions(pool, `${table} WHERE status <> 8`)) {
        if (counted.get(id) !== version || facts.get(id) !== version) behind.push(id);
      }
    }
  }
  return behind;
}

async function untilComplete(): Promise<void> {
  const complete = async (): Promise<boolean> => (await ordersBehind()).length === 0;
  await eventually(complete, 'statistics and warehouse have every order as it is', bounds);
}

async function holdState(orderId: bigint): Promise<number> {
  const sql = 'SELECT state FROM stock_holds WHERE order_id = ?';
  const [[row]] = await system.stockPool.query<RowDataPacket[]>(sql, [orderId]);
  return Number(row?.state);
}

/** Mails that arrived for orders, each as often as it came. */
function mailsOf(orderId: bigint): number {
  const mails = readdirSync(system.mailDir).map((name) =>
    readFileSync(join(system.mailDir, name), 'utf8'),
  );
  return mails.filter((mail) => mail.includes(`<order-${orderId}@`)).length;
}

async function loseTopics(): Promise<void> {
  const admin = createKafka('test', [kafka.brokers], log).admin();
  await admin.connect();
  try {
    await admin.deleteTopics({ topics: [topic, deadLetterTopic(topic)] });
  } finally {
    await admin.disconnect();
  }
}

async function partitionsOf(name: string): Promise<number> {
  const admin = createKafka('test', [kafka.brokers], log).admin();
  await admin.connect();
  try {
    const { topics } = await admin.fetchTopicMetadata({ topics: [name] });
    return topics[0]?.partitions.length ?? 0;
  } catch {
    return 0;
  } finally {
    await admin.disconnect();
  }
}

async function untilPublished(): Promise<void> {
  const isEmpty = async (): Promise<boolean> => {
    const waiting = system.orderPools.map((pool) => count('outbox', pool));
    return (await Promise.all(waiting)).every((rows) => rows === 0);
  };
  await eventually(isEmpty, 'the outboxes are empty', bounds);
}

/** Whether the groups have consumed everything that is in the topic, which is something. */
async function isConsumed(): Promise<boolean> {
  const admin = createKafka('test', [kafka.brokers], log).admin();
  await admin.connect();
  try {
    const ends = await admin.fetchTopicOffsets(topic);
    const total = ends.reduce((sum, { high }) => sum + Number(high), 0);
    for (const group of ['stock-ledger', 'user-statistics', 'warehouse', 'confirmation-mail']) {
      const groupId = `${system.prefix}.${group}`;
      const [committed] = await admin.fetchOffsets({ groupId, topics: [topic] });
      const offsets = committed?.partitions.map(({ offset }) => Math.max(0, Number(offset))) ?? [];
      if (total === 0 || offsets.reduce((sum, offset) => sum + offset, 0) !== total) return false;
    }
    return true;
  } finally {
    await admin.disconnect();
  }
}

async function isReady({ metricsPort }: ServiceProcess): Promise<boolean> {
  return (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok;
}

test('the processes create the topics that Kafka does not have', slow, async () => {
  await eventually(
    async () =>
      (await partitionsOf(topic)) === eventPartitions &&
      (await partitionsOf(deadLetterTopic(topic))) === 1,
    'both topics are there',
    bounds,
  );
});

test(
  'Kafka loses its topics and 51 users nothing: statistics, facts, mails and stock are completed',
  slow,
  async () => {
    const events = system.events as ServiceProcess;
    await events.process.stop();
    const [bought, cancelled] = [await buy(1n), await buy(2n)];
    await payFor(bought, 1n);
    for (let user = 3n; user <= 51n; user += 1n) await buy(user);
    await answered(() => system.order().cancelOrder({ orderId: cancelled, userId: 2n }));
    await untilPublished();
    await eventually(async () => (await holdState(bought)) === sold, 'stock has followed', bounds);
    await loseTopics();
    await events.restart();

    await untilComplete();
    assert.equal(await count('user_statistics WHERE orders > 0'), 51);
    await eventually(() => mailsOf(bought) === 1, 'the confirmation is sent', bounds);
    assert.equal(await partitionsOf(topic), eventPartitions, 'the topic is there again');

    // What comes now goes through Kafka again.
    const late = await buy(52n);
    await answered(() => system.order().cancelOrder({ orderId: late, userId: 52n }));
    await eventually(
      async () => (await holdState(late)) === released,
      'stock follows again',
      bounds,
    );
    await untilPublished();
    await eventually(isConsumed, 'every group follows the new topic', bounds);
    assert.equal(mailsOf(bought), 1, 'no mail is sent twice');
  },
);

test(
  'while Kafka is away orders are taken, expired units come back, and projections are completed',
  slow,
  async () => {
    await kafka.kill();
    const unpaid = await buy(61n);
    const bought = await buy(62n);
    await payFor(bought, 62n);
    assert.equal(await holdState(unpaid), held);
    await eventually(
      async () => (await holdState(unpaid)) === released,
      'its units come back',
      bounds,
    );
    await eventually(async () => (await holdState(bought)) === sold, 'the other is sold', bounds);
    await untilComplete();
    await eventually(() => mailsOf(bought) === 1, 'the confirmation is sent', bounds);
    const { gate, ledger } = await system.admin.getStockLayers({ skuId });
    assert.equal(gate?.available, ledger?.available);

    kafka = await startKafka({ dir, port: kafka.port });
    await untilPublished();
    for (const child of system.processes) {
      if (child.service === 'mail') continue;
      await eventually(() => isReady(child), `${child.service} is ready`, bounds);
    }
    await expectAllAtRest(system);
    assert.equal(mailsOf(bought), 1, 'no mail is sent twice');
  },
);
