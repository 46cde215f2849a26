import { EventEmitter } from 'node:events';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type {
  CreateOrderRequest,
  CreateOrderResult,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { Sku } from '../../gen/sluice/stock/v1/sku.ts';
import { startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';
import { toRefusalMessage } from '../../services/runtime/refusal-status.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import type { Tokens } from '../../services/runtime/tokens.ts';
import { fakeOrderService } from './fake-order.ts';
import { fakePaymentService } from './fake-payment.ts';
import { fakeStockAdminService, fakeStockService, sku } from './fake-stock.ts';

/**
 * Peers of the edge over real gRPC, which remember what they were asked and answer what a test says.
 * They stand for order, stock and payment where a route is tested; the real ones are in the end-to-end tests.
 */
export class Peers {
  /** What every call is refused with, while it is set. */
  refusal: Refusal | undefined;
  /** Awaited by BatchCreateOrders and BatchHandleWebhooks before they answer. */
  hold: Promise<void> | undefined;
  /** How large the batches of orders were. */
  readonly batches: number[] = [];
  /** How large the batches of webhooks were. */
  readonly webhookBatches: number[] = [];
  /** Requests in the order they came, under the name of their method. */
  readonly asked: { method: string; request: unknown }[] = [];
  readonly orders = new Map<bigint, Order>();
  readonly #byRequest = new Map<string, bigint>();
  available = 7n;
  /** What ListSkus answers, whatever page is asked for. */
  skus: readonly Sku[] = [sku];
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

/** Order, stock and payment as one server on a free port. */
export function servePeers(
  peers: Peers,
  tokens: Tokens,
): Promise<{ port: number; stop(): Promise<void> }> {
  return startGrpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      fakeOrderService(peers),
      fakeStockService(peers),
      fakeStockAdminService(peers),
      fakePaymentService(peers),
    ],
    tokens,
    log: createLog('test', 'silent'),
    inFlightMax: 1_000,
  });
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
