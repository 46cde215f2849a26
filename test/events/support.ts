import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RowDataPacket } from 'mysql2';
import { migrateAll } from '../../db/migrate.ts';
import {
  type CaughtMail,
  type MailCatcher,
  startMailCatcher,
} from '../../deploy/local/mail-catcher.ts';
import { freePort } from '../../deploy/local/port.ts';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import { CloseReason, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  compose,
  type EventsOverrides,
  type RunningEvents,
} from '../../services/events/compose.ts';
import { readConfig } from '../../services/events/config.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import { createEventPublisher, type EventMessage } from '../../services/runtime/event-publisher.ts';
import { createEventTopics, orderEventsTopic } from '../../services/runtime/kafka.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { dropDatabases } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { kafkaBrokers, mysqlUrl, uniquePrefix } from '../support/servers.ts';

export const silent = createLog('test', 'silent');
const createTime = new Date('2026-01-01T00:00:00.123Z');

/** Databases of the events process, of a test file's own. */
export interface Stores {
  readonly prefix: string;
  readonly pool: Pool;
  readonly warehouse: Pool;
  close(): Promise<void>;
}

export async function openStores(name: string): Promise<Stores> {
  const prefix = uniquePrefix(name);
  const orderShards = { databases: 0, tables: 1 };
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  const pool = createPool(mysqlUrl, { database: `${prefix}_events`, connectionsMax: 12 });
  const warehouse = createPool(mysqlUrl, { database: `${prefix}_warehouse`, connectionsMax: 8 });
  return {
    ...{ prefix, pool, warehouse },
    async close() {
      await Promise.all([pool.end(), warehouse.end()]);
      await dropDatabases(prefix);
    },
  };
}

/** An SMTP server with what it was sent. */
export interface Mailbox {
  readonly mails: CaughtMail[];
  readonly catcher: MailCatcher;
  /** What the server says to the next mails; undefined takes them. */
  refuse: ((mail: { text: string }) => { code: number; message: string } | undefined) | undefined;
  /** Goes down, and comes back on the same port if it is down. */
  down(): Promise<void>;
  up(): Promise<void>;
  close(): Promise<void>;
}

export async function openMailbox(): Promise<Mailbox> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-mail-'));
  const mails: CaughtMail[] = [];
  const start = (port: number): Promise<MailCatcher> =>
    startMailCatcher({
      ...{ port, dir },
      refuse: (mail) => mailbox.refuse?.(mail),
      onMail: (mail) => void mails.push(mail),
    });
  let catcher: MailCatcher | undefined;
  const mailbox: Mailbox = {
    mails,
    // Not one that the system chooses: while the server is down, an outgoing connection could get it.
    catcher: await start(await freePort()),
    refuse: undefined,
    async down() {
      await catcher?.stop();
      catcher = undefined;
    },
    async up() {
      catcher ??= await start(mailbox.catcher.port);
    },
    async close() {
      await catcher?.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  catcher = mailbox.catcher;
  return mailbox;
}

/** The events process's variables on a test file's own stores. */
export function eventsVariables(
  prefix: string,
  smtpUrl: string,
  brokers = kafkaBrokers,
): Record<string, string> {
  return {
    SLUICE_MYSQL_URLS: mysqlUrl,
    SLUICE_KAFKA_BROKERS: brokers,
    SLUICE_DATABASE_PREFIX: prefix,
    SLUICE_KAFKA_TOPIC_PREFIX: `${prefix}.`,
    // Nothing listens there; whoever compares with orders brings them along.
    SLUICE_ORDER_ADDRESS: '127.0.0.1:1',
    SLUICE_EVENTS_METRICS_PORT: '0',
    SLUICE_EVENTS_NICE: '0',
    SLUICE_SMTP_URL: smtpUrl,
    SLUICE_MAIL_PER_SECOND: '500',
    SLUICE_MAIL_RETRY_MS: '50',
    SLUICE_LOG_LEVEL: process.env.SLUICE_LOG_LEVEL ?? 'silent',
  };
}

/** Stores, topics, a mailbox, and processes of the service within this one. */
export interface EventsBench extends Stores {
  readonly topic: string;
  readonly mailbox: Mailbox;
  readonly variables: Record<string, string>;
  /** Starts a copy and waits until it has joined its groups. */
  start(overrides?: EventsOverrides, variables?: Record<string, string>): Promise<RunningEvents>;
  publish(messages: readonly EventMessage[]): Promise<void>;
}

export async function startEventsBench(name: string, brokers = kafkaBrokers): Promise<EventsBench> {
  const stores = await openStores(name);
  const { prefix } = stores;
  const topic = orderEventsTopic(`${prefix}.`);
  await createEventTopics(brokers.split(','), `${prefix}.`, silent);
  const mailbox = await openMailbox();
  const variables = eventsVariables(prefix, mailbox.catcher.url, brokers);
  const publisher = createEventPublisher({
    clientId: 'test',
    brokers: brokers.split(','),
    log: silent,
  });
  const running: RunningEvents[] = [];
  return {
    ...{ ...stores, topic, mailbox, variables },
    async start(overrides = {}, more = {}) {
      const events = await compose(readConfig({ ...variables, ...more }), overrides);
      running.push(events);
      // Those of a process that died keep their places for seconds, and Kafka itself may still be starting.
      await eventually(() => events.joined(), 'the consumers join their groups', {
        withinMs: 120_000,
      });
      return events;
    },
    publish: (messages) => publisher.publish(topic, messages, Deadline.after(40_000)),
    async close() {
      await Promise.all(running.map(({ lifecycle }) => lifecycle.stop()));
      await publisher.close();
      await mailbox.close();
      await stores.close();
    },
  };
}

/** An event of an order with two lines, EUR 30.00, unless told otherwise. */
export function orderEvent(orderId: bigint, event: Partial<OrderEvent> = {}): OrderEvent {
  const price = (minorUnits: bigint) => ({ currencyCode: 'EUR', minorUnits });
  const version = event.version ?? 1;
  return {
    orderId,
    version,
    userId: (orderId % 7n) + 1n,
    status: OrderStatus.ORDER_STATUS_PENDING,
    closeReason: CloseReason.CLOSE_REASON_UNSPECIFIED,
    items: [
      { skuId: 1n, quantity: 2, unitPrice: price(1_000n) },
      { skuId: 2n, quantity: 1, unitPrice: price(1_000n) },
    ],
    total: price(3_000n),
    eventTime: new Date(createTime.getTime() + version * 1_000),
    paymentId: 0n,
    restock: false,
    refunded: undefined,
    orderCreateTime: createTime,
    ...event,
  };
}

/** The events of one order's whole life; its kind follows from its id. */
export function lifeOf(orderId: bigint): OrderEvent[] {
  const { ORDER_STATUS_CANCELLED, ORDER_STATUS_PAID } = OrderStatus;
  const { ORDER_STATUS_REFUNDING, ORDER_STATUS_REFUNDED } = OrderStatus;
  const created = orderEvent(orderId);
  const refunded = (minorUnits: bigint) => ({ currencyCode: 'EUR', minorUnits });
  const paymentId = orderId + 1_000_000n;
  const later = (version: number, status: OrderStatus, more: Partial<OrderEvent> = {}) =>
    orderEvent(orderId, { version, status, paymentId, ...more });
  switch (orderId % 5n) {
    case 0n:
      return [created];
    case 1n: {
      const closeReason = CloseReason.CLOSE_REASON_EXPIRED;
      return [created, later(2, ORDER_STATUS_CANCELLED, { closeReason, paymentId: 0n })];
    }
    case 2n:
      return [created, later(2, ORDER_STATUS_PAID)];
    case 3n:
      return [
        created,
        later(2, ORDER_STATUS_PAID),
        later(3, ORDER_STATUS_PAID, { refunded: refunded(500n) }),
      ];
    default:
      return [
        created,
        later(2, ORDER_STATUS_PAID),
        later(3, ORDER_STATUS_REFUNDING),
        later(4, ORDER_STATUS_REFUNDED, { refunded: refunded(3_000n) }),
      ];
  }
}

export function livesOf(first: bigint, count: number): OrderEvent[] {
  return Array.from({ length: count }, (_, index) => lifeOf(first + BigInt(index))).flat();
}

export function messageOf(event: OrderEvent): EventMessage {
  return { key: String(event.orderId), value: OrderEvent.encode(event).finish() };
}

/** Statistics as they must be, counted from the last version of each order. */
export function recount(events: readonly OrderEvent[]): Record<string, Record<string, string>> {
  const last = new Map<bigint, OrderEvent>();
  for (const event of events) {
    if (event.version > (last.get(event.orderId)?.version ?? 0)) last.set(event.orderId, event);
  }
  const users = new Map<string, bigint[]>();
  for (const { userId, status, total, refunded } of last.values()) {
    const user = `${userId} ${total?.currencyCode}`;
    const isNow = (...statuses: OrderStatus[]): bigint => (statuses.includes(status) ? 1n : 0n);
    const { ORDER_STATUS_PAID: paid, ORDER_STATUS_REFUNDING: refunding } = OrderStatus;
    const { ORDER_STATUS_CANCELLED: cancelled, ORDER_STATUS_REFUNDED: done } = OrderStatus;
    const wasPaid = isNow(paid, refunding, done);
    const figures = [
      ...[1n, isNow(paid, refunding), isNow(cancelled), isNow(done)],
      ...[wasPaid * (total?.minorUnits ?? 0n), wasPaid * (refunded?.minorUnits ?? 0n)],
    ];
    const sums = users.get(user);
    users.set(user, sums ? sums.map((sum, index) => sum + (figures[index] ?? 0n)) : figures);
  }
  const names = ['orders', 'paid', 'cancelled', 'refunded', 'paidMinor', 'refundedMinor'];
  return Object.fromEntries(
    [...users].map(([user, sums]) => [
      user,
      Object.fromEntries(names.map((name, index) => [name, String(sums[index])])),
    ]),
  );
}

/** Statistics as they are, in the form of `recount`. */
export async function statistics(pool: Pool): Promise<ReturnType<typeof recount>> {
  const [rows] = await pool.query<RowDataPacket[]>('SELECT * FROM user_statistics');
  return Object.fromEntries(
    rows.map((row) => [
      `${row.user_id} ${row.currency}`,
      {
        orders: row.orders,
        paid: row.paid,
        cancelled: row.cancelled,
        refunded: row.refunded,
        paidMinor: row.paid_minor,
        refundedMinor: row.refunded_minor,
      },
    ]),
  );
}

/** Lines of the warehouse as `order/SKU → version status`. */
export async function facts(pool: Pool): Promise<Record<string, string>> {
  const [rows] = await pool.query<RowDataPacket[]>('SELECT * FROM order_line_facts');
  const line = (row: RowDataPacket): [string, string] => [
    `${row.order_id}/${row.sku_id}`,
    `${row.version} ${row.status} ${row.close_reason} ${row.quantity}×${row.unit_price_minor} ` +
      `${row.order_total_minor}-${row.order_refunded_minor} ${row.currency} by ${row.user_id}, ` +
      `payment ${row.payment_id}, ${row.event_time.toISOString()}`,
  ];
  return Object.fromEntries(rows.map(line));
}

/** Orders that have a mail to be sent or sent. */
export async function mailedOrders(pool: Pool, where = 'TRUE'): Promise<bigint[]> {
  const [rows] = await pool.query<RowDataPacket[]>(
    `SELECT order_id FROM confirmation_mails WHERE ${where} ORDER BY order_id`,
  );
  return rows.map((row) => BigInt(row.order_id));
}

export function paidOrders(events: readonly OrderEvent[]): bigint[] {
  const paid = new Set<bigint>();
  for (const { orderId } of events) if (orderId % 5n >= 2n) paid.add(orderId);
  return [...paid].sort((a, b) => Number(a - b));
}
