import { Admission } from '../runtime/admission.ts';
import { showClocks } from '../runtime/clock-metrics.ts';
import { Deadline } from '../runtime/deadline.ts';
import { createEventPublisher, type EventPublisher } from '../runtime/event-publisher.ts';
import { startGrpcServer } from '../runtime/grpc-server.ts';
import { JudgedTime } from '../runtime/judged-time.ts';
import { orderEventsTopic } from '../runtime/kafka.ts';
import type { Lifecycle } from '../runtime/lifecycle.ts';
import type { Log } from '../runtime/log.ts';
import { startLoop } from '../runtime/loop.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import { startOutboxRelay } from '../runtime/outbox-relay.ts';
import { startService } from '../runtime/start-service.ts';
import type { OrderConfig } from './config.ts';
import { createFenceOrder } from './fence-order.ts';
import { followClocks } from './follow-clocks.ts';
import { hostClock, type IdClock, OrderIdGenerator } from './id-generator.ts';
import { joinCopies } from './in-flight-requests.ts';
import { createInsertOrders } from './insert-orders.ts';
import { type OrderDatabase, openOrderDatabase } from './order-database.ts';
import { createOrderDoor } from './order-door.ts';
import { startOrderLife } from './order-life.ts';
import { createOrderMetrics, type OrderMetrics } from './order-metrics.ts';
import { createOrderReader } from './order-reader.ts';
import { createOrderService } from './order-server.ts';
import { OrderShards } from './order-shards.ts';
import { createOrderStateService } from './order-state-server.ts';
import { startOutboxGuard } from './outbox-guard.ts';
import type { PaymentGateway } from './payment-gateway.ts';
import { createPlaceOrder } from './place-order.ts';
import { connectStock, type StockGateway } from './stock-gateway.ts';
import { createTakeOrder } from './take-order.ts';
import { type LeasedWorker, startWorkerLease } from './worker-lease.ts';

/** What tests replace; everything else is built from the configuration. */
export interface OrderOverrides {
  readonly stock?: StockGateway;
  readonly payment?: PaymentGateway;
  readonly publisher?: EventPublisher;
  readonly clock?: IdClock;
  readonly log?: Log;
}

/** A running order service. */
export interface RunningOrder {
  readonly port: number;
  readonly metricsPort: number;
  readonly shards: OrderShards;
  readonly worker: LeasedWorker;
  readonly lifecycle: Lifecycle;
  readonly log: Log;
}

/** Batches under way to stock: the second is built while stock works on the first. */
const stockInFlightMax = 2;
/**
 * Batches under way in each database, for new orders and for adopted ones. One makes batches larger
 * and commits fewer: measured at 4,000 orders/s over HTTP, P99 fell from 413 to 269 ms.
 */
const insertInFlightMax = 1;
/** About what a database takes in two seconds; more could not be answered in time. */
const queueDepthMax = 10_000;
/** What most orders should take; beyond it fewer are let in at once, between these bounds. */
const createTargetMs = 125;
const startLimit = 1_000;
const limitMin = 50;
/** On a machine so slow that each takes longer than the target in any case, so many are let in all the same. */
const fewOrders = 400;
const mapRefreshMs = 1_000;
const mapDeadlineMs = 2_000;

/** Builds and starts the order service; what was started is stopped again if a part cannot start. */
export async function compose(
  config: OrderConfig,
  overrides: OrderOverrides = {},
): Promise<RunningOrder> {
  return await startService('order', config, overrides.log, (log, lifecycle) =>
    start(config, overrides, log, lifecycle),
  );
}

async function start(
  config: OrderConfig,
  overrides: OrderOverrides,
  log: Log,
  lifecycle: Lifecycle,
): Promise<RunningOrder> {
  const registry = createMetrics('order');
  const metrics = createOrderMetrics(registry);
  const { hops } = metrics;
  const clock = overrides.clock ?? hostClock;
  const time = new JudgedTime({ ...clock, preferred: serverOf(config, 0) });
  showClocks(registry, time);
  const databases = openDatabases(config, time, metrics, log, lifecycle);
  const shards = new OrderShards(databases);
  const worker = await startWorker(config, time, clock, databases, log, lifecycle);
  await followSlotMap(shards, log, lifecycle);
  const wakeRelay = startRelays(config, overrides, databases, log, lifecycle);
  const outbox = startOutboxGuard(
    databases,
    { rowsMax: config.outboxRowsMax, ageMaxMs: config.outboxAgeMaxMs },
    metrics,
    log,
  );
  lifecycle.add('outbox guard', () => outbox.stop());

  const stock =
    overrides.stock ??
    connectStock({
      addresses: config.stockAddresses,
      log,
      inFlightMax: stockInFlightMax,
      queueDepthMax,
      metrics: hops,
      breakerState: metrics.breakerState,
    });
  lifecycle.add('stock gateway', () => stock.close());
  const reader = createOrderReader({ shards, queueDepthMax, metrics: hops });
  lifecycle.add('reader', () => reader.close());
  const fences = createFenceOrder({ shards, reader, queueDepthMax, metrics: hops });
  lifecycle.add('fences', () => fences.close());
  const insertOrders = createInsertOrders({
    shards,
    expiryMs: config.expiryMs,
    inFlightMax: insertInFlightMax,
    queueDepthMax,
    log,
    metrics: hops,
    onCommit: wakeRelay,
  });
  lifecycle.add('inserts', () => insertOrders.close());

  const clocks = followClocks({
    ...{ databases, stock, time, log },
    serverOf: (index) => serverOf(config, index),
  });
  lifecycle.add('clocks', () => clocks.stop());

  const { watches, ...life } = startOrderLife(
    { config, shards, reader, payment: overrides.payment, metrics, queueDepthMax, wakeRelay, log },
    lifecycle,
  );

  const stopWatches = (): Promise<void> => watches.stop();
  // For a start that fails from here on.
  lifecycle.add('poller of watches', stopWatches);
  const placeOrder = joinCopies(
    createPlaceOrder({
      ...{ nextId: worker.nextId, stock, reader, insertOrders },
      fenceOrder: fences.fenceOrder,
    }),
  );
  const passDoor = createOrderDoor({
    takeOrder: createTakeOrder({ shards, outbox, reader, insertOrders, placeOrder }),
    admission: new Admission({
      ...{ targetMs: createTargetMs, startLimit, limitMin, limitMax: queueDepthMax },
      few: fewOrders,
      onWindow(limit, underWay) {
        metrics.admissionLimit.set(limit);
        metrics.underWay.set(underWay);
      },
    }),
    ...{ metrics, log },
  });
  const { watchOrder } = watches;
  const orderService = createOrderService({ shards, reader, ...life, passDoor, watchOrder, log });
  const server = await startGrpcServer({
    host: config.listen,
    port: config.port,
    services: [orderService, createOrderStateService(shards)],
    log,
    inFlightMax: config.inFlightMax,
    metrics: registry,
  });
  lifecycle.add('grpc server', () => server.stop());
  // Ended before the server is, which waits for streams under way.
  lifecycle.add('watches', stopWatches);
  const observability = await startObservabilityServer({
    port: config.metricsPort,
    registry: registry.registry,
    ready: () => notReady(shards, worker.leased, stock),
  });
  lifecycle.add('observability server', () => observability.stop());
  return {
    port: server.port,
    metricsPort: observability.port,
    shards,
    worker: worker.leased,
    lifecycle,
    log,
  };
}

/** Names the server that an order database is on. */
function serverOf({ mysqlUrls }: OrderConfig, index: number): string {
  return `mysql ${new URL(mysqlUrls[index % mysqlUrls.length] as string).host}`;
}

function openDatabases(
  config: OrderConfig,
  time: JudgedTime,
  metrics: OrderMetrics,
  log: Log,
  lifecycle: Lifecycle,
): OrderDatabase[] {
  return Array.from({ length: config.shards.databases }, (_, index) => {
    const database = openOrderDatabase({
      index,
      url: config.mysqlUrls[index % config.mysqlUrls.length] as string,
      database: `${config.databasePrefix}_order_${index}`,
      connectionsMax: config.connectionsMax,
      restSecondsMax: config.transactionRestSeconds,
      time,
      log,
      breakerState: metrics.breakerState,
    });
    lifecycle.add(`database ${index}`, () => database.stop());
    return database;
  });
}

async function startWorker(
  config: OrderConfig,
  time: JudgedTime,
  clock: IdClock,
  databases: readonly OrderDatabase[],
  log: Log,
  lifecycle: Lifecycle,
): Promise<{ leased: LeasedWorker; nextId: (slot: number) => bigint }> {
  const pools = databases.map(({ pool }) => pool);
  const leaseMs = config.workerLeaseMs;
  const leased = await startWorkerLease({
    ...{ pools, time, log, leaseMs },
    serverOf: (index) => serverOf(config, index),
  });
  const { monotonicMs } = clock;
  const wallMs = (): number => time.nowMs() ?? 0;
  const generator = new OrderIdGenerator(() => leased.current(), { wallMs, monotonicMs });
  lifecycle.add('worker number', () => leased.stop(generator.usedMs));
  return { leased, nextId: (slot) => generator.next(slot) };
}

/** Reads the slot map now and then; until it was read once, orders are refused. */
async function followSlotMap(shards: OrderShards, log: Log, lifecycle: Lifecycle): Promise<void> {
  // Any database has the whole map; one that is away keeps nobody from reading it.
  const refresh = async (): Promise<void> => {
    const read = await Promise.allSettled(
      shards.databases.map(({ index }) => shards.refresh(index, Deadline.after(mapDeadlineMs))),
    );
    const failed = read.filter((one) => one.status === 'rejected');
    if (failed.length === read.length) throw failed[0]?.reason;
  };
  await refresh().catch((error) => log.warn({ err: error }, 'no slot map yet'));
  const loop = startLoop({ name: 'slot-map', intervalMs: mapRefreshMs, run: refresh, log });
  lifecycle.add('slot map', () => loop.stop());
}

/** One relay for each database. @returns what wakes the relay of a database after a commit */
function startRelays(
  config: OrderConfig,
  overrides: OrderOverrides,
  databases: readonly OrderDatabase[],
  log: Log,
  lifecycle: Lifecycle,
): (database: number) => void {
  const publisher =
    overrides.publisher ??
    createEventPublisher({ clientId: 'sluice-order', brokers: config.kafkaBrokers, log });
  lifecycle.add('event publisher', () => publisher.close());
  const topic = orderEventsTopic(config.topicPrefix);
  const relays = databases.map(({ index, pool }) => {
    const relay = startOutboxRelay({ name: `order_${index}`, pool, topic, publisher, log });
    lifecycle.add(`relay ${index}`, () => relay.stop());
    return relay;
  });
  return (database) => relays[database]?.wake();
}

/**
 * What keeps all buyers from being served. A database that is away is not among them while another one
 * is there, for whose users the process is ready; nor is Kafka: orders go on until an outbox is full.
 */
function notReady(shards: OrderShards, worker: LeasedWorker, stock: StockGateway): string[] {
  const waitingFor: string[] = [];
  if (shards.version === 0) waitingFor.push('the slot map');
  if (shards.databases.every(({ away }) => away)) waitingFor.push('an order database');
  if (worker.current() === undefined) waitingFor.push('a worker number');
  if (!stock.connected()) waitingFor.push('stock');
  return waitingFor;
}
