import { setTimeout as sleep } from 'node:timers/promises';
import type { BatcherMetrics } from '../runtime/batcher.ts';
import { createBreaker } from '../runtime/breaker.ts';
import { type ConsumerMetrics, createConsumerMetrics } from '../runtime/consumer-lag.ts';
import { createDatabaseCircuit, type DatabaseCircuit } from '../runtime/database-circuit.ts';
import { Deadline } from '../runtime/deadline.ts';
import { ConfigError } from '../runtime/env.ts';
import { startEventConsumer } from '../runtime/event-consumer.ts';
import { createEventPublisher } from '../runtime/event-publisher.ts';
import { startGrpcServer } from '../runtime/grpc-server.ts';
import { JudgedTime } from '../runtime/judged-time.ts';
import { orderEventsTopic } from '../runtime/kafka.ts';
import type { Lifecycle } from '../runtime/lifecycle.ts';
import type { Log } from '../runtime/log.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { createPool, type Pool } from '../runtime/mysql.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import { startService } from '../runtime/start-service.ts';
import { createTokens } from '../runtime/tokens.ts';
import { createAdoptHolds } from './adopt-holds.ts';
import { startAuditLedger } from './audit-ledger.ts';
import { startBusySkus } from './busy-skus.ts';
import { type CheckGatesOptions, startCheckGates } from './check-gates.ts';
import { createCompareBuyers } from './compare-buyers.ts';
import type { StockConfig } from './config.ts';
import { createCreditFenced } from './credit-fenced.ts';
import { followClock } from './follow-clock.ts';
import { createFollowOrders, decodeOrderEvent } from './follow-orders.ts';
import { Gate } from './gate.ts';
import { connectGate, type GateConnection } from './gate-connection.ts';
import { startGateReadiness } from './gate-readiness.ts';
import { startKeeper } from './keeper.ts';
import { connectOrder, type OrderGateway } from './order-gateway.ts';
import { startRecheckHolds } from './recheck-holds.ts';
import { createReleaseStock, type ReleaseStock } from './release-stock.ts';
import { createReserveBatches } from './reserve-batches.ts';
import { createReserveStock } from './reserve-stock.ts';
import { ResyncQueue } from './resync-queue.ts';
import { type SettlePendingOptions, startSettlePending } from './settle-pending.ts';
import { SettledOrders } from './settled-orders.ts';
import { SkuCatalogue } from './sku-catalogue.ts';
import { SkuReads } from './sku-reads.ts';
import { createStockAdminService } from './stock-admin-server.ts';
import { createStockMetrics, type StockMetrics } from './stock-metrics.ts';
import { createStockService } from './stock-server.ts';
import { startSweepHolds } from './sweep-holds.ts';
import { createUndoRefused } from './undo-refused.ts';

/** What tests replace; everything else is built from the configuration. */
export interface StockOverrides {
  readonly order?: OrderGateway;
  /** False leaves the consumer of order events out, for tests without Kafka. */
  readonly followOrders?: boolean;
  readonly log?: Log;
}

/** A running stock service. */
export interface RunningStock {
  readonly port: number;
  readonly metricsPort: number;
  readonly lifecycle: Lifecycle;
  readonly log: Log;
}

/** Connections for those who look at SKUs. */
const readConnectionsMax = 4;
/** How long a start waits for Redis. */
const connectMs = 2_000;
const connectPollMs = 5;
/** What was left pending is settled this long after its age at the latest. */
const settlingMs = 3_000;

/** Builds and starts the stock service; what was started is stopped again if a part cannot start. */
export async function compose(
  config: StockConfig,
  overrides: StockOverrides = {},
): Promise<RunningStock> {
  return await startService('stock', config, overrides.log, (log, lifecycle) =>
    start(config, overrides, log, lifecycle),
  );
}

async function start(
  config: StockConfig,
  overrides: StockOverrides,
  log: Log,
  lifecycle: Lifecycle,
): Promise<RunningStock> {
  const registry = createMetrics('stock');
  const metrics = createStockMetrics(registry);
  const consumers = createConsumerMetrics(registry);
  const { pool, readPool, time, connection, gate, ledger } = openStores(
    config,
    metrics,
    log,
    lifecycle,
  );
  await untilConnected(connection);
  const busySkus = startBusySkus({ pool, busySkus: metrics.busySkus, log });
  lifecycle.add('busy SKUs', () => busySkus.stop());
  const catalogue = new SkuCatalogue(readPool);
  const skuReads = new SkuReads(readPool);
  lifecycle.add('reads of SKUs', () => skuReads.close());
  const creditFenced = createCreditFenced(gate, metrics, log);
  const stores = { gate, connection, pool, busySkus, creditFenced };
  const resyncs = new ResyncQueue(stores, metrics, log);
  lifecycle.add('resyncs', () => resyncs.close());
  const releaseStock = createReleaseStock({ ...stores, metrics, log });
  lifecycle.add('releases', () => releaseStock.close());
  const settled = new SettledOrders(gate, log);
  lifecycle.add('settled orders', () => settled.close());
  const batches = createReserveBatches({ gate, pool, busySkus, ledger, metrics });
  lifecycle.add('fences', () => batches.fences.close());
  lifecycle.add('posts', () => batches.posts.close());
  lifecycle.add('gate calls', () => batches.gate.close());
  lifecycle.add('questions to gates', () => batches.ask.close());
  const requestResync = resyncs.request.bind(resyncs);
  const { ordersInFlightMax, settleAgeMs } = config;
  const adoptHolds = createAdoptHolds({ pool: readPool, metrics: metrics.hops, log });
  lifecycle.add('adoption of holds', () => adoptHolds.close());
  const reserveStock = createReserveStock({
    adoptHolds,
    ...{ batches, catalogue, busySkus, settled, requestResync, ledger, ordersInFlightMax },
    undoRefused: createUndoRefused({ fences: batches.fences, creditFenced, log }),
    ...{ metrics, log },
  });

  const readiness = startGateReadiness({ pool: readPool, connection, requestResync, time, log });
  lifecycle.add('readiness of the gates', () => readiness.stop());
  startKeeping(config, { ...stores, catalogue, requestResync, metrics, log }, lifecycle);
  const order = overrides.order ?? connectOrder({ addresses: config.orderAddresses, log, metrics });
  lifecycle.add('order gateway', () => order.close());
  const sweep = startSweepHolds({ pool, order, releaseStock, settleAgeMs, time, metrics, log });
  lifecycle.add('sweep of holds', () => sweep.stop());
  const { recheckAgeMs: ageMs } = config;
  const recheck = startRecheckHolds({ pool, order, releaseStock, ageMs, time, metrics, log });
  lifecycle.add('recheck of holds', () => recheck.stop());
  if (overrides.followOrders !== false) {
    const following = { consumers, hops: metrics.chunkHops };
    await startFollowing(config, releaseStock, following, log, lifecycle);
  }

  const server = await startGrpcServer({
    host: config.listen,
    port: config.port,
    services: [
      createStockService({ skuReads, time, connection, reserveStock, releaseStock }),
      createStockAdminService({ pool, gate, connection, catalogue, resyncs, skuReads, log }),
    ],
    tokens: createTokens({ secret: config.tokenSecret }),
    log,
    inFlightMax: config.callsInFlightMax,
    metrics: registry,
  });
  lifecycle.add('grpc server', () => server.stop());
  const observability = await startObservabilityServer({
    port: config.metricsPort,
    registry: registry.registry,
    ready() {
      const waitingFor: string[] = [];
      if (!connection.connected) waitingFor.push(connection.fault?.sentence ?? 'redis');
      if (ledger.open) waitingFor.push('the ledger');
      const gates = readiness.waitingFor();
      if (gates !== undefined) waitingFor.push(gates);
      return waitingFor;
    },
  });
  lifecycle.add('observability server', () => observability.stop());
  return { port: server.port, metricsPort: observability.port, lifecycle, log };
}

interface Stores {
  readonly pool: Pool;
  /** For those who only look at SKUs: they take no connection from buyers. */
  readonly readPool: Pool;
  readonly time: JudgedTime;
  readonly connection: GateConnection;
  readonly gate: Gate;
  readonly ledger: DatabaseCircuit;
}

function openStores(
  config: StockConfig,
  { breakerState }: StockMetrics,
  log: Log,
  lifecycle: Lifecycle,
): Stores {
  const { mysqlUrl, databasePrefix, connectionsMax, redisUrl, redisTimeoutMs } = config;
  const { transactionRestSeconds: restSecondsMax } = config;
  const database = `${databasePrefix}_stock`;
  const options = { database, restSecondsMax };
  const pool = createPool(mysqlUrl, { ...options, connectionsMax, multipleStatements: true });
  lifecycle.add('ledger', () => pool.end());
  const readPool = createPool(mysqlUrl, { ...options, connectionsMax: readConnectionsMax });
  lifecycle.add('ledger for readers', () => readPool.end());
  const state = breakerState;
  const ledger = createDatabaseCircuit({
    ...{ name: 'stock.ledger', url: mysqlUrl, database },
    ...{ log, state },
  });
  lifecycle.add('breaker of the ledger', () => ledger.stop());
  const time = new JudgedTime({ preferred: 'mysql' });
  const clock = followClock({ pool: readPool, time, log });
  lifecycle.add("the ledger's clock", () => clock.stop());
  const connection = connectGate({ url: redisUrl, commandTimeoutMs: redisTimeoutMs, time, log });
  lifecycle.add('redis', () => connection.close());
  const breaker = createBreaker({
    name: 'stock.gate',
    log,
    state,
    // A server that hung is as good as new once it answers; a sale must not wait out 30 s for it.
    probe: async () => (await connection.redis.ping()) === 'PONG' && connection.connected,
    isConnectionLoss: () => true,
  });
  lifecycle.add('breaker of the gate', () => breaker.stop());
  const gate = new Gate(connection, breaker, redisTimeoutMs);
  return { pool, readPool, time, connection, gate, ledger };
}

/** What one process does for all copies. */
function startKeeping(
  config: StockConfig,
  parts: Omit<CheckGatesOptions, 'keeper'> & SettlePendingOptions,
  lifecycle: Lifecycle,
): void {
  const { pool, connection, catalogue, requestResync, metrics, log } = parts;
  const { settleAgeMs, auditIntervalMs: intervalMs } = config;
  const keeper = startKeeper({ pool, log });
  lifecycle.add('keeper', () => keeper.stop());
  const check = startCheckGates({ ...parts, keeper });
  lifecycle.add('check of the gates', () => check.stop());
  const sureAfterMs = settleAgeMs + settlingMs;
  const compareBuyers = createCompareBuyers({
    ...{ pool, connection, catalogue, requestResync, sureAfterMs },
  });
  const audit = startAuditLedger({ pool, metrics, log, intervalMs, compareBuyers });
  lifecycle.add('audit', () => audit.stop());
  const settling = startSettlePending({ ...parts, keeper, settleAgeMs });
  lifecycle.add('settling of pending entries', () => settling.stop());
}

/**
 * Without Redis the service starts too, and installs the gates when it comes.
 *
 * @throws ConfigError if it is set so that it may drop a part of a gate
 */
async function untilConnected(connection: GateConnection): Promise<void> {
  const patience = Deadline.after(connectMs);
  while (!connection.connected && !patience.passed) await sleep(connectPollMs);
  const { fault } = connection;
  if (fault?.kind === 'evicts') throw new ConfigError([`SLUICE_REDIS_URL: ${fault.sentence}`]);
}

/** Follows paid, cancelled and refunded orders; the service works without Kafka meanwhile. */
async function startFollowing(
  { kafkaBrokers: brokers, topicPrefix }: StockConfig,
  releaseStock: ReleaseStock,
  { consumers: metrics, hops }: { consumers: ConsumerMetrics; hops: BatcherMetrics },
  log: Log,
  lifecycle: Lifecycle,
): Promise<void> {
  const publisher = createEventPublisher({ clientId: 'sluice-stock', brokers, log });
  lifecycle.add('event publisher', () => publisher.close());
  const followOrders = createFollowOrders(releaseStock, hops);
  lifecycle.add('followed orders', () => followOrders.close());
  const consumer = await startEventConsumer({
    ...{ brokers, publisher, metrics, log },
    groupId: `${topicPrefix}stock-ledger`,
    topic: orderEventsTopic(topicPrefix),
    decode: decodeOrderEvent,
    handle: followOrders.handle,
  });
  lifecycle.add('order events', () => consumer.stop());
}
