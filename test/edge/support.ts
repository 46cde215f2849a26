import { EventEmitter, on } from 'node:events';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  type CreateOrderRequest,
  type CreateOrderResult,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { Sku } from '../../gen/sluice/stock/v1/sku.ts';
import { StockAdminServiceDefinition } from '../../gen/sluice/stock/v1/stock_admin_service.ts';
import { StockServiceDefinition } from '../../gen/sluice/stock/v1/stock_service.ts';
import { compose, type Overrides } from '../../services/edge/compose.ts';
import { readConfig } from '../../services/edge/config.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';
import { toRefusalMessage } from '../../services/runtime/refusal-status.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { eventually } from '../support/eventually.ts';
import { fakePaymentService } from './fake-payment.ts';

export const tokenSecret = 'a secret for the tests of the edge, long enough';
export const tokens = createTokens({ secret: tokenSecret });

/** The `authorization` header of a user. */
export function bearer(userId: bigint, role?: string): { authorization: string } {
  const { token } = tokens.sign({ userId, ttlSeconds: 600, ...(role ? { role } : {}) });
  return { authorization: `Bearer ${token}` };
}

/**
 * Peers of the edge over real gRPC, which remember what they were asked and answer what a test says.
 * They stand for order, stock and payment where a route is tested; the real ones are in the end-to-end tests.
 */
export class Peers {
  /** What every call is refused with, while it is set. */
  refusal: Refusal | undefined;
  /** Awaited by BatchCreateOrders before it answers. */
  hold: Promise<void> | undefined;
  /** How large the batches of orders were. */
  readonly batches: number[] = [];
  /** Requests in the order they came, under the name of their method. */
  readonly asked: { method: string; request: unknown }[] = [];
  readonly orders = new Map<bigint, Order>();
  readonly #byRequest = new Map<string, bigint>();
  available = 7n;
  /** Emits `order` for each change; an `error` ends every stream of WatchOrder with it. */
  readonly changes = new EventEmitter().setMaxListeners(0);
  /** Streams of WatchOrder that are open. */
  watching = 0;

  /** Moves an order on by one version and tells those who watch it. */
  change(orderId: bigint, change: Partial<Order>): void {
    const order = this.orders.get(orderId);
    if (!order) throw new Error(`there is no order ${orderId}`);
    const changed = { ...order, ...change, version: order.version + 1 };
    this.orders.set(orderId, changed);
    this.changes.emit('order', changed);
  }

  create(request: CreateOrderRequest): CreateOrderResult {
    if (this.refusal) {
      return { outcome: { $case: 'refusal', value: toRefusalMessage(this.refusal) } };
    }
    const key = `${request.userId}/${request.requestId}`;
    const known = this.#byRequest.get(key);
    const order =
      known === undefined ? newOrder(request, this.orders.size) : this.orders.get(known);
    if (!order) throw new Error('the order of a known request is gone');
    this.#byRequest.set(key, order.orderId);
    this.orders.set(order.orderId, order);
    return { outcome: { $case: 'created', value: { order, replayed: known !== undefined } } };
  }

  /** The order, if it is the user's. */
  find(orderId: bigint, userId: bigint): Order {
    const order = this.orders.get(orderId);
    if (order?.userId !== userId) throw new Refusal('NOT_FOUND', 'There is no such order');
    return order;
  }

  note(method: string, request: unknown): void {
    this.asked.push({ method, request });
    if (this.refusal) throw this.refusal;
  }
}

function newOrder({ userId, requestId, lines }: CreateOrderRequest, count: number): Order {
  const unitPrice = { currencyCode: 'USD', minorUnits: 9_007_199_254_740_993n };
  return {
    orderId: 9_007_199_254_740_993n + BigInt(count),
    userId,
    requestId,
    status: OrderStatus.ORDER_STATUS_PENDING,
    items: lines.map(({ skuId, quantity }) => ({ skuId, quantity, unitPrice })),
    total: unitPrice,
    createTime: new Date('2027-01-02T03:04:05.678Z'),
    expireTime: new Date('2027-01-02T03:19:05.678Z'),
    updateTime: new Date('2027-01-02T03:04:05.678Z'),
    closeReason: 0,
    version: 1,
    paymentId: 0n,
    refunded: undefined,
  };
}

export const sku: Sku = {
  skuId: 7n,
  title: 'A "quoted" thing',
  unitPrice: { currencyCode: 'USD', minorUnits: 1_999n },
  openTime: undefined,
  closeTime: new Date('2027-02-01T00:00:00Z'),
  limitPerUser: 0,
  paused: false,
  settingsVersion: 1n,
  supplied: 10n,
  available: 7n,
  held: 3n,
  sold: 0n,
  epoch: 1n,
  createTime: new Date('2027-01-01T00:00:00Z'),
  updateTime: new Date('2027-01-01T00:00:00Z'),
};

const log = createLog('test', 'silent');

/** Order, stock and payment as one server on a free port. */
export async function startPeers(peers: Peers): Promise<{ port: number; stop(): Promise<void> }> {
  const later = async (): Promise<never> => {
    throw new Error('not used by the edge');
  };
  const orderService = service(OrderServiceDefinition, {
    createOrder: later,
    async batchCreateOrders({ requests }) {
      peers.batches.push(requests.length);
      peers.asked.push({ method: 'batchCreateOrders', request: requests });
      await peers.hold;
      return { results: requests.map((request) => peers.create(request)) };
    },
    async getOrder({ orderId, userId }) {
      peers.note('getOrder', { orderId, userId });
      return { order: peers.find(orderId, userId) };
    },
    async listOrders(request) {
      peers.note('listOrders', request);
      return { orders: [...peers.orders.values()], nextPageToken: 'next "page"' };
    },
    async getOrderHistory({ orderId, userId }) {
      peers.note('getOrderHistory', { orderId, userId });
      const transitionTime = peers.find(orderId, userId).createTime;
      const [fromStatus, toStatus] = [0, OrderStatus.ORDER_STATUS_PENDING] as const;
      return {
        transitions: [{ version: 1, fromStatus, toStatus, closeReason: 0, transitionTime }],
      };
    },
    async cancelOrder({ orderId, userId }) {
      peers.note('cancelOrder', { orderId, userId });
      const status = OrderStatus.ORDER_STATUS_CANCELLED;
      return { order: { ...peers.find(orderId, userId), status, closeReason: 1, version: 2 } };
    },
    async *watchOrder({ orderId, userId }, { signal }) {
      peers.note('watchOrder', { orderId, userId });
      const order = peers.find(orderId, userId);
      const changes = on(peers.changes, 'order', { signal });
      peers.watching += 1;
      try {
        yield { order };
        for await (const [changed] of changes as AsyncIterable<[Order]>) {
          if (changed.orderId === orderId) yield { order: changed };
        }
      } finally {
        peers.watching -= 1;
      }
    },
    recordPayment: later,
    recordRefund: later,
    resolveOrders: later,
    beginPayment: later,
  });
  const stockService = service(StockServiceDefinition, {
    reserveStock: later,
    releaseStock: later,
    async batchGetStock(request) {
      peers.note('batchGetStock', request);
      const { available } = peers;
      return {
        stocks: request.skuIds.map((skuId) => ({ skuId, loaded: true, available, paused: false })),
      };
    },
    async getSku(request) {
      peers.note('getSku', request);
      if (request.skuId !== sku.skuId) throw new Refusal('NOT_FOUND', 'There is no such SKU');
      return { sku };
    },
    async listSkus(request) {
      peers.note('listSkus', request);
      return { skus: [sku], nextPageToken: '', serverTime: new Date('2027-01-15T00:00:00Z') };
    },
  });
  const adminService = service(
    StockAdminServiceDefinition,
    {
      async createSku(request) {
        peers.note('createSku', request);
        return { sku: { ...sku, skuId: request.skuId } };
      },
      async updateSku(request) {
        peers.note('updateSku', request);
        return { sku };
      },
      async adjustStock(request) {
        peers.note('adjustStock', request);
        return { sku, replayed: true };
      },
      async rebuildStock(request) {
        peers.note('rebuildStock', request);
        return { epoch: 2n, available: 7n };
      },
      async getStockLayers(request) {
        peers.note('getStockLayers', request);
        return {
          gate: {
            loaded: true,
            available: 7n,
            pendingOrders: 0n,
            oldestPendingAgeMs: 0n,
            epoch: 1n,
            buyers: 2n,
            state: 'open',
          },
          ledger: sku,
        };
      },
    },
    { adminOnly: true },
  );
  return startGrpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [orderService, stockService, adminService, fakePaymentService(peers)],
    tokens,
    log,
    inFlightMax: 1_000,
  });
}

export interface RunningEdge {
  readonly url: string;
  readonly port: number;
  readonly metricsUrl: string;
  stop(): Promise<void>;
}

/** Starts an edge on free ports; `variables` are added to its environment. */
export async function startEdge(
  peersPort: number,
  variables: Readonly<Record<string, string>> = {},
  overrides: Omit<Overrides, 'log'> = {},
): Promise<RunningEdge> {
  const config = readConfig({
    SLUICE_EDGE_PORT: '0',
    SLUICE_EDGE_METRICS_PORT: '0',
    SLUICE_EDGE_DRAIN_MS: '0',
    SLUICE_ORDER_ADDRESS: `127.0.0.1:${peersPort}`,
    SLUICE_STOCK_ADDRESS: `127.0.0.1:${peersPort}`,
    SLUICE_PAYMENT_ADDRESS: `127.0.0.1:${peersPort}`,
    SLUICE_TOKEN_SECRET: tokenSecret,
    ...variables,
  });
  const { port, metricsPort, lifecycle } = await compose(config, { ...overrides, log });
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    metricsUrl: `http://127.0.0.1:${metricsPort}`,
    stop: () => lifecycle.stop(),
  };
}

/** Asks until the answer is wanted, at most for ten seconds. */
export function until(wanted: () => Promise<boolean>): Promise<void> {
  return eventually(wanted, 'what the test waits for', { withinMs: 10_000 });
}

/** An error answer, as far as tests look at it. */
export interface ProblemBody {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly reason: string;
  readonly instance: string;
  readonly skuId?: string;
  readonly violations?: { field: string; description: string }[];
}
