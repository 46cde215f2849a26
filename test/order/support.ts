import { type Connection, createConnection, type RowDataPacket } from 'mysql2/promise';
import { migrateAll } from '../../db/migrate.ts';
import { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import {
  type CreateOrderRequest,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import { compose, type OrderOverrides, type RunningOrder } from '../../services/order/compose.ts';
import { type OrderConfig, readConfig } from '../../services/order/config.ts';
import { Deadline } from '../../services/runtime/deadline.ts';
import type { EventMessage, EventPublisher } from '../../services/runtime/event-publisher.ts';
import { createGrpcClient } from '../../services/runtime/grpc-client.ts';
import { createLog } from '../../services/runtime/log.ts';
import { eventually } from '../support/eventually.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { type FakePayment, startFakePayment } from './fake-payment.ts';
import { type FakeStock, startFakeStock } from './fake-stock.ts';

const policy = { deadlineMs: 20_000, breaker: 'test' };
const callTable = {
  createOrder: policy,
  batchCreateOrders: policy,
  getOrder: policy,
  listOrders: policy,
  getOrderHistory: policy,
  cancelOrder: policy,
  resolveOrders: policy,
  beginPayment: policy,
  recordPayment: policy,
  batchRecordPayments: policy,
  recordRefund: policy,
} as const;

/** Databases of a test file's own, with the fakes of stock and payment; order processes are started against them. */
export interface OrderBench {
  readonly stock: FakeStock;
  readonly payment: FakePayment;
  readonly prefix: string;
  /** Everything that the processes' relays have published. */
  readonly published: EventMessage[];
  /** Starts a process and waits until it is ready, unless it is to look for its databases elsewhere. */
  start(settings?: Partial<OrderConfig>, overrides?: OrderOverrides): Promise<OrderProcess>;
  /** Runs a statement on an order database. */
  sql<Row extends RowDataPacket>(database: number, statement: string): Promise<Row[]>;
  /** Rows of all `orders_…` tables that a condition selects, with their place. */
  orderRows(where: string): Promise<RowDataPacket[]>;
  /** The published events of an order, in the order of their publication. */
  eventsOf(orderId: bigint): OrderEvent[];
  /** Stops all processes and drops the databases. */
  stop(): Promise<void>;
}

export interface OrderProcess extends RunningOrder {
  readonly client: ReturnType<typeof connect>['client'];
  /** Closes the circuit of the test's own client, which provoked failures have opened. */
  closeCircuit(): void;
  stop(): Promise<void>;
}

export async function startOrderBench(
  name: string,
  orderShards = { databases: 2, tables: 2 },
): Promise<OrderBench> {
  const prefix = uniquePrefix(name);
  await migrateAll({ mysqlUrls: [mysqlUrl], databasePrefix: prefix, orderShards });
  const admin = await createConnection({ uri: mysqlUrl, timezone: 'Z' });
  const stock = await startFakeStock();
  const payment = await startFakePayment();
  const running = new Set<OrderProcess>();
  const published: EventMessage[] = [];
  const publisher: EventPublisher = {
    async publish(_topic, messages) {
      published.push(...messages);
    },
    async close() {},
  };

  const connections = await Promise.all(
    Array.from({ length: orderShards.databases }, (_, index) =>
      createConnection({
        uri: mysqlUrl,
        timezone: 'Z',
        database: `${prefix}_order_${index}`,
        supportBigNumbers: true,
        bigNumberStrings: true,
      }),
    ),
  );
  async function sql<Row extends RowDataPacket>(database: number, statement: string) {
    const [rows] = await (connections[database] as Connection).query<Row[]>(statement);
    return rows;
  }

  return {
    stock,
    payment,
    prefix,
    published,
    sql,
    async start(settings = {}, overrides = {}) {
      const config: OrderConfig = {
        ...readConfig({ SLUICE_ORDER_PORT: '0', SLUICE_ORDER_METRICS_PORT: '0' }),
        mysqlUrls: [mysqlUrl],
        databasePrefix: prefix,
        shards: orderShards,
        stockAddresses: [stock.address],
        paymentAddresses: [payment.address],
        topicPrefix: prefix,
        logLevel: 'silent',
        ...settings,
      };
      const order = await compose(config, { publisher, ...overrides });
      const connected = connect(order.port);
      const process: OrderProcess = {
        ...order,
        client: connected.client,
        closeCircuit: () => connected.breaker(policy.breaker)?.close(),
        async stop() {
          running.delete(process);
          connected.close();
          await order.lifecycle.stop();
        },
      };
      running.add(process);
      await eventually(() => connected.connected(), 'the client is connected');
      if (settings.mysqlUrls === undefined) {
        await eventually(() => isReady(order.metricsPort), 'the process is ready');
      }
      return process;
    },
    async orderRows(where) {
      const found: RowDataPacket[] = [];
      for (let database = 0; database < orderShards.databases; database += 1) {
        for (let table = 0; table < orderShards.tables; table += 1) {
          const from = `orders_${String(table).padStart(2, '0')}`;
          const rows = await sql(database, `SELECT * FROM ${from} WHERE ${where}`);
          found.push(...rows.map((row) => ({ ...row, database, table }) as RowDataPacket));
        }
      }
      return found;
    },
    eventsOf(orderId) {
      const mine = published.filter(({ key }) => key === String(orderId));
      return mine.map(({ value }) => OrderEvent.decode(value));
    },
    async stop() {
      for (const process of [...running]) await process.stop();
      await Promise.all([stock.stop(), payment.stop()]);
      await admin.query(`DROP DATABASE IF EXISTS ${prefix}_stock`);
      for (let database = 0; database < orderShards.databases; database += 1) {
        await admin.query(`DROP DATABASE IF EXISTS ${prefix}_order_${database}`);
      }
      await Promise.all([admin, ...connections].map((connection) => connection.end()));
    },
  };
}

function connect(port: number) {
  return createGrpcClient(OrderServiceDefinition, {
    addresses: [`127.0.0.1:${port}`],
    callTable,
    log: createLog('test', 'silent'),
  });
}

async function isReady(metricsPort: number): Promise<boolean> {
  return (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok;
}

/** Where several processes relay, a later event may be published first. */
export function byVersion(events: readonly OrderEvent[]): OrderEvent[] {
  return [...events].sort((a, b) => a.version - b.version);
}

/** A request for `quantity` of SKU 1, unless told otherwise. */
export function orderRequest(
  userId: bigint,
  requestId: string,
  lines: CreateOrderRequest['lines'] = [{ skuId: 1n, quantity: 1 }],
): CreateOrderRequest {
  return { userId, requestId, lines };
}

/** Options of a call with its own deadline. */
export function within(deadlineMs: number): { deadline: Deadline } {
  return { deadline: Deadline.after(deadlineMs) };
}
