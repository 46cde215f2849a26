import type { FastifyInstance } from 'fastify';
import { type Authentication, callerOf } from '../authentication.ts';
import { readCreateOrderRequest } from '../create-order-request.ts';
import { jsonContentType } from '../http-server.ts';
import { readNoFields } from '../json-fields.ts';
import type { OrderDoor } from '../order-door.ts';
import type { OrderGateway } from '../order-gateway.ts';
import { historyJson, orderJson, orderPageJson } from '../order-json.ts';
import { Query, readPathId } from '../query.ts';

const pageSizeMax = 100;

/** A buyer's own orders. */
export function addOrderRoutes(
  app: FastifyInstance,
  options: { orders: OrderGateway; authentication: Authentication; door: OrderDoor },
): void {
  const { orders, authentication, door } = options;
  const onRequest = authentication.user;

  // The batcher answers each order by its deadline.
  const config = { ownDeadline: true };
  app.post('/v1/orders', { onRequest, config }, async (request, reply) => {
    const { userId } = callerOf(request);
    const key = request.headers['idempotency-key'];
    const wanted = readCreateOrderRequest(userId, key, request.body);
    const { order, replayed } = await door.enter(wanted.lines.length, () => orders.create(wanted));
    if (!order) throw new Error('the order service answered without an order');
    reply.code(201).header('location', `/v1/orders/${order.orderId}`).type(jsonContentType);
    if (replayed) reply.header('idempotent-replayed', 'true');
    return orderJson(order);
  });

  app.get('/v1/orders', { onRequest }, async (request, reply) => {
    const query = new Query(request.query, ['pageSize', 'pageToken']);
    const pageSize = query.integer('pageSize', 1, pageSizeMax);
    const pageToken = query.string('pageToken');
    query.done();
    const page = await orders.list(callerOf(request).userId, pageSize, pageToken);
    reply.type(jsonContentType);
    return orderPageJson(page.orders, page.nextPageToken);
  });

  app.get('/v1/orders/:id', { onRequest }, async (request, reply) => {
    const orderId = readPathId(request.params, 'orderId');
    const order = await orders.get(orderId, callerOf(request).userId);
    reply.type(jsonContentType);
    return orderJson(order);
  });

  app.post('/v1/orders/:id/cancel', { onRequest }, async (request, reply) => {
    const orderId = readPathId(request.params, 'orderId');
    readNoFields(request.body);
    const order = await orders.cancel(orderId, callerOf(request).userId);
    reply.type(jsonContentType);
    return orderJson(order);
  });

  app.get('/v1/orders/:id/history', { onRequest }, async (request, reply) => {
    const orderId = readPathId(request.params, 'orderId');
    const transitions = await orders.history(orderId, callerOf(request).userId);
    reply.type(jsonContentType);
    return historyJson(transitions);
  });
}
