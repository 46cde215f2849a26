import type { Order, OrderTransition } from '../../gen/sluice/order/v1/order.ts';
import {
  type CreateOrderRequest,
  type CreateOrderResponse,
  type CreateOrderResult,
  type ListOrdersResponse,
  OrderServiceDefinition,
  type WatchOrderRequest,
  type WatchOrderResponse,
} from '../../gen/sluice/order/v1/order_service.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import { Deadline } from '../runtime/deadline.ts';
import {
  type CallPolicy,
  createGrpcClient,
  type GrpcClientOptions,
} from '../runtime/grpc-client.ts';
import { createGrpcStreams, type StreamPolicy } from '../runtime/grpc-stream.ts';
import { fromRefusalMessage } from '../runtime/refusal-status.ts';
import { Refusal } from '../runtime/refusals.ts';
import { answeringInRequestFields, inRequestFields } from './request-fields.ts';

/** What a buyer waits for an order at most, queueing included. */
const createBudgetMs = 2_000;
/** A cancel may have a payment's session voided with its provider first. */
const cancelDeadlineMs = 3_500;
const readDeadlineMs = 1_000;
/** The order service takes this many orders in one call. */
const batchEntriesMax = 500;
/** Keeps a batch of 20-line orders and its answer far below the limit of a message. */
const batchBytesMax = 256 * 1_024;
/** Two keep the order service busy while an answer travels; more would only make batches smaller. */
const batchesInFlightMax = 2;

const read = { deadlineMs: readDeadlineMs, retry: true, readOnly: true, breaker: 'order.read' };

/** How the edge calls the order service. */
const callTable = {
  batchCreateOrders: { deadlineMs: createBudgetMs, retry: true, breaker: 'order.create' },
  cancelOrder: { deadlineMs: cancelDeadlineMs, retry: true, breaker: 'order.cancel' },
  getOrder: read,
  listOrders: read,
  getOrderHistory: read,
} as const satisfies Record<string, CallPolicy>;

const watchPolicy: StreamPolicy = { firstMessageMs: readDeadlineMs, breaker: 'order.watch' };

/** The order service as the edge sees it; every error is a Refusal. */
export interface OrderGateway {
  /** Hands the order to the next batch. */
  create(request: CreateOrderRequest): Promise<CreateOrderResponse>;
  get(orderId: bigint, userId: bigint): Promise<Order>;
  list(userId: bigint, pageSize: number, pageToken: string): Promise<ListOrdersResponse>;
  history(orderId: bigint, userId: bigint): Promise<OrderTransition[]>;
  cancel(orderId: bigint, userId: bigint): Promise<Order>;
  /** The order now and after each change, until its final state, the signal or a loss. */
  watch(orderId: bigint, userId: bigint, signal: AbortSignal): AsyncIterable<Order>;
  /** Orders that wait for a batch or for its answer. */
  waiting(): number;
  /** Whether a connection to the service is up. */
  connected(): boolean;
  /** Answers what was taken in, then closes the connection. */
  close(): Promise<void>;
}

export interface OrderGatewayOptions extends Omit<GrpcClientOptions<never>, 'callTable'> {
  readonly queueDepthMax: number;
  /** Orders watched at once. */
  readonly streamsMax: number;
  readonly batcherMetrics: BatcherMetrics;
}

export function createOrderGateway(options: OrderGatewayOptions): OrderGateway {
  const grpc = createGrpcClient(OrderServiceDefinition, { ...options, callTable });
  const client = answeringInRequestFields(grpc.client);
  const streams = createGrpcStreams<WatchOrderRequest, WatchOrderResponse>(
    OrderServiceDefinition,
    'watchOrder',
    { ...options, policy: watchPolicy },
  );
  const batcher = new Batcher<CreateOrderRequest, CreateOrderResponse>({
    name: 'edge_to_order',
    entriesMax: batchEntriesMax,
    bytesMax: batchBytesMax,
    sizeOf: bytesOnTheWire,
    inFlightMax: batchesInFlightMax,
    queueDepthMax: options.queueDepthMax,
    afterSend: 'OUTCOME_UNKNOWN',
    metrics: options.batcherMetrics,
    async run(requests, { deadline }) {
      const { results } = await client.batchCreateOrders({ requests }, { deadline });
      return results.map(resultOf);
    },
  });
  return {
    create: (request) => batcher.add(request, Deadline.after(createBudgetMs)),
    async get(orderId, userId) {
      return present((await client.getOrder({ orderId, userId })).order);
    },
    list: (userId, pageSize, pageToken) => client.listOrders({ userId, pageSize, pageToken }),
    async history(orderId, userId) {
      return (await client.getOrderHistory({ orderId, userId })).transitions;
    },
    async cancel(orderId, userId) {
      return present((await client.cancelOrder({ orderId, userId })).order);
    },
    async *watch(orderId, userId, signal) {
      for await (const { order } of streams.open({ orderId, userId }, signal)) yield present(order);
    },
    waiting: () => batcher.size,
    connected: grpc.connected,
    async close() {
      streams.close();
      await batcher.close();
      grpc.close();
    },
  };
}

/** The larger of an entry's request and its answer, roughly: an answer has prices, times and the total. */
function bytesOnTheWire({ lines, requestId }: CreateOrderRequest): number {
  return 120 + requestId.length + 40 * lines.length;
}

/** A result without an outcome comes from a newer peer: what it means is not known. */
function resultOf({ outcome }: CreateOrderResult): CreateOrderResponse | Refusal {
  if (outcome?.$case === 'created') return outcome.value;
  if (outcome?.$case === 'refusal') return inRequestFields(fromRefusalMessage(outcome.value));
  return new Refusal('OUTCOME_UNKNOWN');
}

function present(order: Order | undefined): Order {
  if (order) return order;
  throw new Error('the order service answered without an order');
}
