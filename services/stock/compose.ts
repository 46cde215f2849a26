import { setTimeout as sleep } from 'node:timers/promises';
import type { BatcherMetrics } from '../runtime/batcher.ts';
import { createBreaker } from '../runtime/breaker.ts';
import { type ConsumerMetrics, createConsumerMetrics } from '../runtime/consumer-lag.ts';
import { Deadline } from '../runtime/deadline.ts';
import { startEventConsumer } from '../runtime/event-consumer.ts';
import { createEventPublisher } from '../runtime/event-publisher.ts';
import { startGrpcServer } from '../runtime/grpc-server.ts';
import { orderEventsTopic } from '../runtime/kafka.ts';
import type { Lifecycle } from '../runtime/lifecycle.ts';
import type { Log } from '../runtime/log.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { createPool, type Pool } from '../runtime/mysql.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import { startService } from '../runtime/start-service.ts';
import { createTokens } from '../runtime/tokens.ts';
import { startAuditLedger } from './audit-ledger.ts';
import { startCheckGates } from './check-gates.ts';
import { createCompareBuyers } from './compare-buyers.ts';
import type { StockConfig } from './config.ts';
import { createCreditFenced } from './credit-fenced.ts';
import { createFollowOrders, decodeOrderEvent } from './follow-orders.ts';
import { Gate } from './gate.ts';
import { connectGate, type GateConnection } from './gate-connection.ts';
import { createLedgerBreaker } from './ledger-breaker.ts';
import { connectOrder, type OrderGateway } from './order-gateway.ts';
import { startRecheckHolds } from './recheck-holds.ts';
import { createReleaseStock, type ReleaseStock } from './release-stock.ts';
import { createReserveBatches } from './reserve-batches.ts';
import { createReserveStock } from './reserve-stock.ts';
import { ResyncQueue } from './resync-queue.ts';
import { startSettlePending } from './settle-pending.ts';
import { SettledOrders } from './settled-orders.ts';
import { SkuCatalogue } from './sku-catalogue.ts';
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
  const { pool, connection, gate } = openStores(config, metrics, log, lifecycle);
  await untilConnected(connection);
  const catalogue = new SkuCatalogue(pool);
  const creditFenced = createCreditFenced(gate, metrics, log);
  const resyncs = new ResyncQueue({ gate, connection, pool, creditFenced }, metrics, log);
  lifecycle.add('resyncs', () => resyncs.close());
  const releaseStock = createReleaseStock({ pool, gate, creditFenced, metrics, log });
  lifecycle.add('releases', () => releaseStock.close());
  const settled = new SettledOrders(gate, log);
  lifecycle.add('settled orders', () => settled.close());
  const ledger = createLedgerBreaker(pool, { log, state: metrics.breakerState });
  lifecycle.add('breaker of the ledger', () => ledger.stop());
  const batches = createReserveBatches(gate, pool, ledger, metrics);
  lifecycle.add('fences', () => batches.fences.close());
  lifecycle.add('posts', () => batches.posts.close());
  lifecycle.add('gate calls', () => batches.gate.close());
  const requestResync = resyncs.request.bind(resyncs);
  const { ordersInFlightMax, settleAgeMs } = config;
  const undoRefused = createUndoRefused({ fences: batches.fences, creditFenced, log });
  const reserveStock = createReserveStock({
    ...{ batches, undoRefused, catalogue, settled, requestResync },
    ...{ ledger, ordersInFlightMax, metrics, log },
  });

  const check = startCheckGates({ pool, gate, connection, catalogue, requestResync, metrics, log });
  lifecycle.add('check of the gates', () => check.stop());
  const sureAfterMs = settleAgeMs + settlingMs;
  const buyers = { pool, connection, catalogue, requestResync, sureAfterMs };
  const audit = startAuditLedger({
    ...{ pool, metrics, log, intervalMs: config.auditIntervalMs },
    compareBuyers: createCompareBuyers(buyers),
  });
  lifecycle.add('audit', () => audit.stop());
  const stores = { gate, connection, pool, creditFenced };
  const settling = startSettlePending({ ...stores, catalogue, settleAgeMs, metrics, log });
  lifecycle.add('settling of pending entries', () => settling.stop());
  const order = overrides.order ?? connectOrder({ addresses: config.orderAddresses, log, metrics });
  lifecycle.add('order gateway', () => order.close());
  const sweep = startSweepHolds({ pool, order, releaseStock, settleAgeMs, metrics, log });
  lifecycle.add('sweep of holds', () => sweep.stop());
  const { recheckAgeMs: ageMs } = config;
  const recheck = startRecheckHolds({ pool, order, releaseStock, ageMs, metrics, log });
  lifecycle.add('recheck of holds', () => recheck.stop());
  if (overrides.followOrders !== false)
    await startFollowing(
      config,
      releaseStock,
      { consumers, hops: metrics.chunkHops },
      log,
      lifecycle,
    );

  const server = await startGrpcServer({
    host: config.listen,
    port: config.port,
    services: [
      createStockService({ pool, connection, reserveStock, releaseStock }),
      createStockAdminService({ pool, gate, connection, catalogue, resyncs, log }),
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
      if (!connection.connected) waitingFor.push('redis');
      if (!check.healthy()) waitingFor.push('a look at gates and ledger');
      return waitingFor;
    },
  });
  lifecycle.add('observability server', () => observability.stop());
  return { port: server.port, metricsPort: observability.port, lifecycle, log };
}

function openStores(
  config: StockConfig,
  { breakerState }: StockMetrics,
  log: Log,
  lifecycle: Lifecycle,
): { pool: Pool; connection: GateConnection; gate: Gate } {
  const { mysqlUrl, databasePrefix, connectionsMax, redisUrl, redisTimeoutMs } = config;
  const database = `${databasePrefix}_stock`;
  const pool = createPool(mysqlUrl, { database, connectionsMax, multipleStatements: true });
  lifecycle.add('ledger', () => pool.end());
  const connection = connectGate({ url: redisUrl, commandTimeoutMs: redisTimeoutMs, log });
  lifecycle.add('redis', () => connection.close());
  const breaker = createBreaker({
    name: 'stock.gate',
    log,
    state: breakerState,
    // A server that hung is as good as new once it answers; a sale must not wait out 30 s for it.
    probe: async () => (await connection.redis.ping()) === 'PONG' && connection.connected,
    isConnectionLoss: () => true,
  });
  lifecycle.add('breaker of the gate', () => breaker.stop());
  return { pool, connection, gate: new Gate(connection, breaker, redisTimeoutMs) };
}

/** Without Redis the service starts too, and installs the gates when it comes. */
async function untilConnected(connection: GateConnection): Promise<void> {
  const patience = Deadline.after(connectMs);
  while (!connection.connected && !patience.passed) await sleep(connectPollMs);
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
