import { on } from 'node:events';
import { type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { OrderServiceDefinition } from '../../gen/sluice/order/v1/order_service.ts';
import { type ServerService, service } from '../../services/runtime/grpc-server.ts';
import type { Peers } from './peers.ts';

/** Order over real gRPC: what the peers remember, and nothing that only other services ask for. */
export function fakeOrderService(peers: Peers): ServerService {
  const later = async (): Promise<never> => {
    throw new Error('not used by the edge');
  };
  return service(OrderServiceDefinition, {
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
    batchRecordPayments: later,
    recordRefund: later,
    resolveOrders: later,
    beginPayment: later,
  });
}
