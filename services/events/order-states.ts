import type { OrderEvent } from '../../gen/sluice/event/v1/order_event.ts';
import {
  type ListOrderVersionsRequest,
  type ListOrderVersionsResponse,
  OrderStateServiceDefinition,
} from '../../gen/sluice/event/v1/order_state_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import type { Log } from '../runtime/log.ts';
import type { EventsMetrics } from './events-metrics.ts';

/** What orders are now, as the order service says it. */
export interface OrderStates {
  /** A page of versions of one order database. @throws Refusal if the order service does not answer */
  list(request: ListOrderVersionsRequest, deadline: Deadline): Promise<ListOrderVersionsResponse>;
  /** Some orders as events; those that are gone are left out. @throws Refusal, also if a database is away */
  read(orderIds: readonly bigint[], deadline: Deadline): Promise<OrderEvent[]>;
  close(): void;
}

const callTable = {
  listOrderVersions: { deadlineMs: 3_000, retry: true, breaker: 'order.states', readOnly: true },
  batchGetOrderEvents: { deadlineMs: 3_000, retry: true, breaker: 'order.states', readOnly: true },
} as const;

export function connectOrderStates(options: {
  readonly addresses: readonly string[];
  readonly log: Log;
  readonly metrics: Pick<EventsMetrics, 'breakerState'>;
}): OrderStates {
  const { addresses, log, metrics } = options;
  const { breakerState } = metrics;
  const order = createGrpcClient(OrderStateServiceDefinition, {
    addresses,
    callTable,
    log,
    breakerState,
  });
  return {
    list: (request, deadline) => order.client.listOrderVersions(request, { deadline }),
    async read(orderIds, deadline) {
      const request = { orderIds: [...orderIds] };
      const { events, unavailableOrderIds } = await order.client.batchGetOrderEvents(request, {
        deadline,
      });
      if (unavailableOrderIds.length > 0) throw new DatabaseAway(unavailableOrderIds.length);
      return events;
    },
    close: () => order.close(),
  };
}

/** An order database does not answer; the orders of the others are not concerned. */
export class DatabaseAway extends Error {
  constructor(orders: number) {
    super(`an order database does not answer for ${orders} orders`);
    this.name = 'DatabaseAway';
  }
}
