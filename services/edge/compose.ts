import type { AddressInfo } from 'node:net';
import type { AdmissionOptions } from '../runtime/admission.ts';
import { createBatcherMetrics } from '../runtime/batcher.ts';
import { Lifecycle } from '../runtime/lifecycle.ts';
import { createLog, type Log } from '../runtime/log.ts';
import { createMetrics, type Metrics } from '../runtime/metrics.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import { createTokens } from '../runtime/tokens.ts';
import { createAuthentication } from './authentication.ts';
import { type EdgeConfig, isLoopback } from './config.ts';
import { connectionsWithin } from './descriptor-limit.ts';
import { DisplayStockMemory } from './display-stock.ts';
import type { EventStreamOptions } from './event-stream.ts';
import { createHttpServer, securityHeaders } from './http-server.ts';
import { OrderDoor } from './order-door.ts';
import { createOrderGateway, type OrderGateway } from './order-gateway.ts';
import { createPaymentGateway, type PaymentGateway } from './payment-gateway.ts';
import { addAdminPaymentRoutes } from './routes/admin-payments.ts';
import { addAdminSkuRoutes } from './routes/admin-skus.ts';
import { addDemoTokenRoute } from './routes/demo-token.ts';
import { addHealthRoutes } from './routes/health.ts';
import { addOrderEventsRoute } from './routes/order-events.ts';
import { addOrderRoutes } from './routes/orders.ts';
import { addPaymentRoutes } from './routes/payments.ts';
import { addSkuRoutes } from './routes/skus.ts';
import { addStockRoutes } from './routes/stock.ts';
import { addWebhookRoute, webhookBodyBytesMax } from './routes/webhooks.ts';
import { createSkuMemory } from './sku-memory.ts';
import {
  createStockAdminGateway,
  createStockGateway,
  type StockAdminGateway,
  type StockGateway,
} from './stock-gateway.ts';
import { StreamPlaces } from './stream-places.ts';
import { UnfinishedBodies } from './unfinished-bodies.ts';

/** Balancers close a connection that is silent for a minute; a stream comes again after half an hour. */
const orderStream: EventStreamOptions = { heartbeatMs: 15_000, lifetimeMs: 30 * 60_000 };

/** Connections that the system takes for us while we are busy: with node's 511 a herd would push buyers out. */
const backlog = 4_096;

/** A running edge. */
export interface Running {
  /** The real ports, also where the configuration said 0. */
  readonly port: number;
  readonly metricsPort: number;
  readonly lifecycle: Lifecycle;
  readonly log: Log;
}

/** What a test may put in the place of a part. */
export interface Overrides {
  readonly log?: Log;
  readonly orderStream?: EventStreamOptions;
  readonly orderDoor?: Partial<AdmissionOptions>;
}

/** Builds and starts the edge. */
export async function compose(config: EdgeConfig, overrides: Overrides = {}): Promise<Running> {
  const log = overrides.log ?? createLog('edge', config.logLevel);
  const lifecycle = new Lifecycle(log);
  const metrics = createMetrics('edge');
  const { stock, admin, orders, payments } = connectServices(config, { log, metrics, lifecycle });
  const tokens = createTokens({ secret: config.tokenSecret });
  const authentication = createAuthentication(tokens);
  const places = new StreamPlaces(config.streamsMax);
  gaugeOf(
    metrics,
    'edge_order_streams',
    'Streams of order states that are open',
    () => places.size,
  );
  const bodies = new UnfinishedBodies({
    bodyBytesMax: webhookBodyBytesMax,
    bytesMax: config.webhookBytesMax,
  });
  const bytesHelp = 'Bytes of webhooks that have not arrived whole';
  gaugeOf(metrics, 'edge_webhook_unfinished_bytes', bytesHelp, () => bodies.bytes);
  const displayStock = new DisplayStockMemory({ fetch: stock.displayStock });

  const door = new OrderDoor(metrics, securityHeaders, overrides.orderDoor);

  let stopping = false;
  const waitingFor = (): string[] => {
    const names = stopping ? ['the end: this process is stopping'] : [];
    if (!orders.connected()) names.push('order');
    if (!stock.connected()) names.push('stock');
    return names;
  };
  const connectionsMax = connectionsWithin(config.connectionsMax);
  if (connectionsMax < config.connectionsMax) {
    log.warn({ connectionsMax }, 'the system allows fewer descriptors than connections were set');
  }
  const app = createHttpServer({
    ...config,
    connectionsMax,
    log,
    metrics,
    stopping: () => stopping,
    door,
    routes(server) {
      addHealthRoutes(server, { waitingFor });
      addOrderRoutes(server, { orders, authentication, door });
      addOrderEventsRoute(server, {
        orders,
        authentication,
        places,
        stream: overrides.orderStream ?? orderStream,
      });
      addSkuRoutes(server, { skus: createSkuMemory(stock) });
      addStockRoutes(server, { displayStock });
      addPaymentRoutes(server, { payments, authentication });
      addWebhookRoute(server, {
        payments,
        inFlightMax: config.webhooksMax,
        bodies,
      });
      addAdminSkuRoutes(server, { admin, authentication });
      addAdminPaymentRoutes(server, { payments, authentication });
      if (config.demo) addDemoTokenRoute(server, { tokens });
    },
  });
  try {
    const machines = await startObservabilityServer({
      port: config.metricsPort,
      registry: metrics.registry,
      ready: waitingFor,
    });
    lifecycle.add('observability server', machines.stop);
    await app.listen({ host: config.listen, port: config.port, backlog });
    lifecycle.add('http server', async () => {
      stopping = true;
      // Balancers look at /readyz first; whoever comes meanwhile is still served.
      await new Promise((resolve) => setTimeout(resolve, config.drainMs));
      await app.close();
    });
    if (!isLoopback(config.listen)) {
      log.warn({ listen: config.listen }, 'listening beyond this machine without TLS');
    }
    const { port } = app.server.address() as AddressInfo;
    return { port, metricsPort: machines.port, lifecycle, log };
  } catch (error) {
    await lifecycle.stop();
    throw error;
  }
}

/** The services behind the edge. It is ready without payment, whose routes then answer 503. */
interface Services {
  readonly stock: StockGateway;
  readonly admin: StockAdminGateway;
  readonly orders: OrderGateway;
  readonly payments: PaymentGateway;
}

/** Connects to the services behind the edge; each is closed when the lifecycle stops. */
function connectServices(
  config: EdgeConfig,
  { log, metrics, lifecycle }: { log: Log; metrics: Metrics; lifecycle: Lifecycle },
): Services {
  const breakerState = metrics.gauge('circuit_breaker_state', '0 closed, 1 half-open, 2 open', [
    'name',
  ]);
  const batcherMetrics = createBatcherMetrics(metrics);
  const resent = metrics.counter(
    'grpc_calls_resent_total',
    'Calls that surely had no effect where they were sent first, and were sent again, by reason',
    ['reason'],
  );
  const common = { log, breakerState, resent };
  const stockOptions = { addresses: config.stockAddress, ...common };
  const stock = createStockGateway(stockOptions);
  const admin = createStockAdminGateway(stockOptions);
  const orders = createOrderGateway({
    addresses: config.orderAddress,
    ...common,
    queueDepthMax: config.orderQueueDepthMax,
    streamsMax: config.streamsMax,
    batcherMetrics,
  });
  const payments = createPaymentGateway({
    addresses: config.paymentAddress,
    ...common,
    webhooksMax: config.webhooksMax,
    batcherMetrics,
  });
  gaugeOf(metrics, 'edge_orders_waiting', 'Orders that wait for a batch or for its answer', () =>
    orders.waiting(),
  );
  const waitingHelp = 'Webhooks that wait for a batch or for its answer';
  gaugeOf(metrics, 'edge_webhooks_waiting', waitingHelp, () => payments.waiting());
  lifecycle.add('stock gateway', () => stock.close());
  lifecycle.add('stock admin gateway', () => admin.close());
  lifecycle.add('order gateway', () => orders.close());
  lifecycle.add('payment gateway', () => payments.close());
  return { stock, admin, orders, payments };
}

/** A gauge that is counted when somebody looks, so that the path of an order has nothing to count. */
function gaugeOf(metrics: Metrics, name: string, help: string, count: () => number): void {
  const gauge = metrics.gauge(name, help);
  Object.assign(gauge, { collect: () => gauge.set(count()) });
}
