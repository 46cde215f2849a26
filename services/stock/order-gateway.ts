import {
  OrderResolution,
  OrderServiceDefinition,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import type { Log } from '../runtime/log.ts';
import type { StockMetrics } from './stock-metrics.ts';

/** Whether an order exists, as the order service decided; SOLD is one that was paid. */
export type Resolution = 'LIVE' | 'SOLD' | 'DEAD' | 'UNDECIDED';

/** The stock service's way to the order service. */
export interface OrderGateway {
  /** Decides orders, one resolution per id in their order. @throws Refusal; asking again does no harm */
  resolve(orderIds: readonly bigint[], deadline: Deadline): Promise<Resolution[]>;
  close(): void;
}

const callTable = {
  resolveOrders: { deadlineMs: 10_000, retry: true, breaker: 'order.resolve' },
} as const;

export function connectOrder(options: {
  readonly addresses: readonly string[];
  readonly log: Log;
  readonly metrics: StockMetrics;
}): OrderGateway {
  const { addresses, log, metrics } = options;
  const { breakerState } = metrics;
  const order = createGrpcClient(OrderServiceDefinition, {
    addresses,
    callTable,
    log,
    breakerState,
  });
  return {
    async resolve(orderIds, deadline) {
      const request = { orderIds: [...orderIds] };
      const { resolutions } = await order.client.resolveOrders(request, { deadline });
      if (resolutions.length !== orderIds.length) {
        throw new Error(`${resolutions.length} resolutions for ${orderIds.length} orders`);
      }
      return resolutions.map(resolutionOf);
    },
    close: () => order.close(),
  };
}

/** A number that we do not know decides nothing. */
function resolutionOf(resolution: OrderResolution): Resolution {
  if (resolution === OrderResolution.ORDER_RESOLUTION_LIVE) return 'LIVE';
  if (resolution === OrderResolution.ORDER_RESOLUTION_SOLD) return 'SOLD';
  if (resolution === OrderResolution.ORDER_RESOLUTION_DEAD) return 'DEAD';
  return 'UNDECIDED';
}
