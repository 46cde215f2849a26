import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Order } from '../../../gen/sluice/order/v1/order.ts';
import { keepOpen } from '../../runtime/http-guard.ts';
import { Refusal } from '../../runtime/refusals.ts';
import { type Authentication, callerOf } from '../authentication.ts';
import {
  EventStream,
  type EventStreamOptions,
  eventStreamContentType,
  eventText,
} from '../event-stream.ts';
import { followOrder, isFinal } from '../follow-order.ts';
import type { OrderGateway } from '../order-gateway.ts';
import { orderJson } from '../order-json.ts';
import { Query, readPathId } from '../query.ts';
import type { StreamPlaces } from '../stream-places.ts';

/** What tells a client that no state follows, so that it need not come again. */
const endEvent = eventText('end', '{}');

export interface OrderEventsOptions {
  readonly orders: Pick<OrderGateway, 'watch'>;
  readonly authentication: Authentication;
  readonly places: StreamPlaces;
  readonly stream: EventStreamOptions;
}

/**
 * The states of a buyer's order as server-sent events: the present one at once, then each change. A
 * token is taken from the header only, so clients read it with fetch. A client that comes again with
 * Last-Event-ID is spared the state that it has seen.
 */
export function addOrderEventsRoute(app: FastifyInstance, options: OrderEventsOptions): void {
  const { orders, authentication, places, stream } = options;

  // Open streams would keep the server from closing.
  app.addHook('preClose', (done) => {
    places.stop();
    done();
  });

  const routeOptions = {
    onRequest: authentication.user,
    exposeHeadRoute: false,
    config: { ownDeadline: true },
  };
  app.get('/v1/orders/:id/events', routeOptions, async (request, reply) => {
    const orderId = readPathId(request.params, 'orderId');
    new Query(request.query, []).done();
    const { userId } = callerOf(request);
    const place = places.take(userId);
    reply.raw.once('close', place.leave);
    const states = followOrder((signal) => orders.watch(orderId, userId, signal), place.signal);
    const first = await states.next();
    if (first.done) {
      // Either nobody is there to be answered, or the server is about to close.
      throw new Refusal('OVERLOADED', 'The stream ended before it began');
    }
    await sendStates(first.value, states, openStream(request, reply, stream), {
      seenVersion: Number(request.headers['last-event-id']),
    });
  });
}

/** Takes the response over from fastify. */
function openStream(
  request: FastifyRequest,
  reply: FastifyReply,
  options: EventStreamOptions,
): EventStream {
  // What fastify would have sent: the security headers.
  const headers = reply.getHeaders() as Record<string, string>;
  reply.hijack();
  // Between states nothing moves for longer than a request may pause; heartbeats find the dead.
  request.raw.socket.setTimeout(0);
  reply.raw.writeHead(200, {
    ...headers,
    'content-type': eventStreamContentType,
    // A proxy that gathers the answer first would never show a state.
    'x-accel-buffering': 'no',
    connection: 'close',
  });
  reply.raw.flushHeaders();
  keepOpen(reply.raw);
  return new EventStream(reply.raw, options);
}

async function sendStates(
  first: Order,
  later: AsyncGenerator<Order, void>,
  stream: EventStream,
  { seenVersion }: { seenVersion: number },
): Promise<void> {
  let last = first;
  if (first.version !== seenVersion) stream.send(stateEvent(first));
  for await (const order of later) {
    last = order;
    stream.send(stateEvent(order));
  }
  stream.end(isFinal(last) ? endEvent : '');
}

function stateEvent(order: Order): string {
  return eventText('order', orderJson(order), order.version);
}
