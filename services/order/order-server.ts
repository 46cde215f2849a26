import {
  type CreateOrderResult,
  OrderServiceDefinition,
  type OrderServiceImplementation,
  type RecordPaymentRequest,
  type RecordPaymentResult,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { DeadlineContext } from '../runtime/grpc-deadline.ts';
import { encodeWhole } from '../runtime/grpc-messages.ts';
import { type ServerService, service } from '../runtime/grpc-server.ts';
import type { Log } from '../runtime/log.ts';
import { toRefusalMessage } from '../runtime/refusal-status.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import type { BeginPayment } from './begin-payment.ts';
import type { CancelOrder } from './cancel-order.ts';
import { findOrder, readOrderHistory } from './find-order.ts';
import { decodePageToken, listOrders, pageSizeDefault, pageSizeMax } from './list-orders.ts';
import type { PassOrderDoor } from './order-door.ts';
import type { OrderReader } from './order-reader.ts';
import type { OrderShards } from './order-shards.ts';
import type { PlacedOrder } from './place-order.ts';
import type { RecordPayment } from './record-payment.ts';
import type { RecordRefund } from './record-refund.ts';
import { refusalOf } from './refusal-of.ts';
import { resolveOrders } from './resolve-orders.ts';
import type { WatchOrder } from './watch-orders.ts';

/** Orders in one BatchCreateOrders, and payments in one BatchRecordPayments, at most. */
export const batchMax = 500;
/** Ids in one ResolveOrders at most. */
export const resolveMax = 5_000;

export interface OrderServerOptions {
  readonly shards: OrderShards;
  readonly reader: OrderReader;
  readonly passDoor: PassOrderDoor;
  readonly cancelOrder: CancelOrder;
  readonly beginPayment: BeginPayment;
  readonly recordPayment: RecordPayment;
  readonly recordRefund: RecordRefund;
  readonly watchOrder: WatchOrder;
  readonly log: Log;
}

/** Turns calls into use cases: checks what came in, and answers what came of it. */
export function createOrderService(options: OrderServerOptions): ServerService {
  const { shards, reader, cancelOrder, beginPayment, recordPayment, recordRefund } = options;
  const { watchOrder, passDoor } = options;
  const implementation: OrderServiceImplementation<DeadlineContext> = {
    async createOrder(request, { deadline }) {
      const [placed] = (await passDoor([request], deadline)) as [PlacedOrder | Refusal];
      await beforeReply([placed]);
      if (placed instanceof Refusal) throw placed;
      return placed;
    },

    async batchCreateOrders({ requests }, { deadline }) {
      requireCount('requests', requests.length, batchMax);
      const placed = await passDoor(requests, deadline);
      await beforeReply(placed);
      return { results: placed.map(toResult) };
    },

    async getOrder({ orderId, userId }, { deadline }) {
      requireName(orderId, userId);
      const { order } = await findOrder(reader, { orderId, userId }, deadline);
      return { order };
    },

    async listOrders({ userId, pageSize, pageToken }, { deadline }) {
      const before = requirePage(userId, pageSize, pageToken);
      return await listOrders(shards, userId, pageSize || pageSizeDefault, before, deadline);
    },

    async getOrderHistory({ orderId, userId }, { deadline }) {
      requireName(orderId, userId);
      return {
        transitions: await readOrderHistory(shards, reader, { orderId, userId }, deadline),
      };
    },

    async cancelOrder({ orderId, userId }, { deadline }) {
      requireName(orderId, userId);
      return { order: await cancelOrder({ orderId, userId }, deadline) };
    },

    async resolveOrders({ orderIds }, { deadline }) {
      requireCount('order_ids', orderIds.length, resolveMax);
      const wrong = orderIds.findIndex((orderId) => orderId <= 0n);
      if (wrong >= 0) throw invalidId(`order_ids[${wrong}]`);
      return { resolutions: await resolveOrders(shards, orderIds, deadline) };
    },

    async *watchOrder({ orderId, userId }, { deadline, signal }) {
      requireName(orderId, userId);
      for await (const order of watchOrder({ orderId, userId }, deadline, signal)) yield { order };
    },

    async beginPayment({ orderId, userId }, { deadline }) {
      requireName(orderId, userId);
      if (userId === 0n) throw invalidId('user_id');
      return await beginPayment({ orderId, userId }, deadline);
    },

    async recordPayment(request, { deadline }) {
      requirePayment(request);
      return { record: await recordPayment(request, deadline) };
    },

    async batchRecordPayments({ requests }, { deadline }) {
      requireCount('requests', requests.length, batchMax);
      const results = requests.map((request) => recordOne(options, request, deadline));
      return { results: await Promise.all(results) };
    },

    async recordRefund(request, { deadline }) {
      requirePayment(request);
      return { order: await recordRefund(request, deadline) };
    },
  };
  const whole = ['batchCreateOrders', 'batchRecordPayments'];
  return service(encodeWhole(OrderServiceDefinition, whole), implementation);
}

/** One payment of a batch, which carries a refusal as an answer. */
async function recordOne(
  { recordPayment, log }: Pick<OrderServerOptions, 'recordPayment' | 'log'>,
  request: RecordPaymentRequest,
  deadline: Deadline,
): Promise<RecordPaymentResult> {
  try {
    requirePayment(request);
    const record = await recordPayment(request, deadline);
    return { outcome: { $case: 'recorded', value: { record } } };
  } catch (error) {
    const value = toRefusalMessage(refusalOf(error, 'recording a payment', log));
    return { outcome: { $case: 'refusal', value } };
  }
}

async function beforeReply(placed: readonly (PlacedOrder | Refusal)[]): Promise<void> {
  if (!failpoints.on) return;
  const orderIds = placed.flatMap((one) => (one instanceof Refusal ? [] : [one.order.orderId]));
  await failpoints.hit('order.before_reply', { orderIds });
}

function toResult(placed: PlacedOrder | Refusal): CreateOrderResult {
  return {
    outcome:
      placed instanceof Refusal
        ? { $case: 'refusal', value: toRefusalMessage(placed) }
        : { $case: 'created', value: placed },
  };
}

function requireCount(field: string, count: number, max: number): void {
  if (count >= 1 && count <= max) return;
  throw invalidRequest([{ field, description: `Send 1 to ${max}, not ${count}.` }]);
}

function requireName(orderId: bigint, userId: bigint): void {
  if (orderId <= 0n) throw invalidId('order_id');
  if (userId < 0n) throw invalidId('user_id');
}

function requirePayment({ orderId, paymentId }: { orderId: bigint; paymentId: bigint }): void {
  if (orderId <= 0n) throw invalidId('order_id');
  if (paymentId <= 0n) throw invalidId('payment_id');
}

function invalidId(field: string): Refusal {
  return invalidRequest([{ field, description: 'Send a positive id.' }]);
}

/** @returns the order that the page comes after, or undefined for the first page */
function requirePage(userId: bigint, pageSize: number, pageToken: string): bigint | undefined {
  if (userId <= 0n) throw invalidId('user_id');
  if (pageSize < 0 || pageSize > pageSizeMax) {
    const description = `Send 1 to ${pageSizeMax}, or 0 for ${pageSizeDefault}; not ${pageSize}.`;
    throw invalidRequest([{ field: 'page_size', description }]);
  }
  if (pageToken === '') return undefined;
  const before = decodePageToken(userId, pageToken);
  if (before !== undefined) return before;
  const description = 'Send the next_page_token of a page of this user, unchanged.';
  throw invalidRequest([{ field: 'page_token', description }]);
}
