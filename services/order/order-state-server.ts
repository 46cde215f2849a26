import {
  type ListOrderVersionsRequest,
  type ListOrderVersionsResponse,
  OrderStateServiceDefinition,
  type OrderStateServiceImplementation,
} from '../../gen/sluice/event/v1/order_state_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { DeadlineContext } from '../runtime/grpc-deadline.ts';
import { type ServerService, service } from '../runtime/grpc-server.ts';
import { type FieldViolation, invalidRequest, Refusal } from '../runtime/refusals.ts';
import { listOrderVersions } from './list-order-versions.ts';
import type { OrderShards } from './order-shards.ts';
import { readOrderEvents } from './read-order-events.ts';

/** Orders in one page of versions at most, and where the request names no number. */
const pageSizeMax = 5_000;
const pageSizeDefault = 1_000;
/** Orders in one BatchGetOrderEvents at most. */
const eventsMax = 500;
const unchangedMsMax = 86_400_000n;
/** A database that hangs must be answered for before the caller gives up the call, and with it the others. */
const answerMs = 250;

/** What orders are now, for services whose events were lost. */
export function createOrderStateService(shards: OrderShards): ServerService {
  const implementation: OrderStateServiceImplementation<DeadlineContext> = {
    async listOrderVersions(request, { deadline }) {
      const violations = violationsOf(request, shards.databases.length);
      if (violations.length > 0) throw invalidRequest(violations);
      return await listOrUnavailable(shards, request, timeToAnswer(deadline));
    },

    async batchGetOrderEvents({ orderIds }, { deadline }) {
      const violations = violationsOfIds(orderIds);
      if (violations.length > 0) throw invalidRequest(violations);
      const { events, unavailable } = await readOrderEvents(
        shards,
        orderIds,
        timeToAnswer(deadline),
      );
      return { events, unavailableOrderIds: unavailable };
    },
  };
  return service(OrderStateServiceDefinition, implementation);
}

function timeToAnswer(deadline: Deadline): Deadline {
  return deadline.min(Math.max(0, deadline.leftMs() - answerMs));
}

/** A database that is away is an answer about itself: the caller goes on with the others. */
async function listOrUnavailable(
  shards: OrderShards,
  request: ListOrderVersionsRequest,
  deadline: Deadline,
): Promise<ListOrderVersionsResponse> {
  const { databaseIndex, newestFirst, afterOrderId, untilOrderId, pageSize } = request;
  const databaseCount = shards.databases.length;
  const page = { ...request, pageSize: pageSize || pageSizeDefault };
  try {
    const database = shards.database(databaseIndex);
    const listed = await listOrderVersions(shards, database, page, deadline);
    return { ...listed, databaseCount, unavailable: false };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const reachedOrderId = newestFirst ? untilOrderId + 1n : afterOrderId;
    return { orders: [], reachedOrderId, databaseCount, unavailable: true };
  }
}

function violationsOf(request: ListOrderVersionsRequest, databases: number): FieldViolation[] {
  const { databaseIndex, afterOrderId, untilOrderId, pageSize, unchangedMs } = request;
  const violations: FieldViolation[] = [];
  const requireThat = (isRight: boolean, field: string, description: string): void => {
    if (!isRight) violations.push({ field, description });
  };
  const isIndex = databaseIndex >= 0 && databaseIndex < databases;
  requireThat(isIndex, 'database_index', `Send 0 to ${databases - 1}, not ${databaseIndex}.`);
  requireThat(afterOrderId >= 0n, 'after_order_id', 'Send an id, or 0.');
  requireThat(untilOrderId >= afterOrderId, 'until_order_id', 'Send after_order_id or more.');
  const isSize = pageSize >= 0 && pageSize <= pageSizeMax;
  requireThat(isSize, 'page_size', `Send 1 to ${pageSizeMax}, or 0 for ${pageSizeDefault}.`);
  const isAge = unchangedMs >= 0n && unchangedMs <= unchangedMsMax;
  requireThat(isAge, 'unchanged_ms', `Send 0 to ${unchangedMsMax}.`);
  return violations;
}

function violationsOfIds(orderIds: readonly bigint[]): FieldViolation[] {
  const { length } = orderIds;
  if (length < 1 || length > eventsMax) {
    return [{ field: 'order_ids', description: `Send 1 to ${eventsMax}, not ${length}.` }];
  }
  const wrong = orderIds.findIndex((orderId) => orderId <= 0n);
  if (wrong < 0) return [];
  return [{ field: `order_ids[${wrong}]`, description: 'Send a positive id.' }];
}
