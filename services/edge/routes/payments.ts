import type { FastifyInstance } from 'fastify';
import { type FieldViolation, invalidRequest } from '../../runtime/refusals.ts';
import { type Authentication, callerOf } from '../authentication.ts';
import { readRequestId } from '../create-order-request.ts';
import { jsonContentType } from '../http-server.ts';
import { readNoFields } from '../json-fields.ts';
import type { PaymentGateway } from '../payment-gateway.ts';
import { paymentJson, paymentListJson } from '../payment-json.ts';
import { readPathId } from '../query.ts';

/** Paying an order, for its buyer. */
export function addPaymentRoutes(
  app: FastifyInstance,
  { payments, authentication }: { payments: PaymentGateway; authentication: Authentication },
): void {
  const onRequest = authentication.user;

  app.post('/v1/orders/:id/payments', { onRequest }, async (request, reply) => {
    const orderId = readPathId(request.params, 'orderId');
    const violations: FieldViolation[] = [];
    const requestId = readRequestId(request.headers['idempotency-key'], violations);
    if (violations.length > 0) throw invalidRequest(violations);
    readNoFields(request.body);
    const { userId } = callerOf(request);
    const payment = await payments.create({ orderId, userId, requestId });
    reply.code(201).header('location', `/v1/payments/${payment.paymentId}`).type(jsonContentType);
    return paymentJson(payment);
  });

  app.get('/v1/orders/:id/payments', { onRequest }, async (request, reply) => {
    const orderId = readPathId(request.params, 'orderId');
    const list = await payments.list(orderId, callerOf(request).userId);
    reply.type(jsonContentType);
    return paymentListJson(list);
  });

  app.get('/v1/payments/:id', { onRequest }, async (request, reply) => {
    const paymentId = readPathId(request.params, 'paymentId');
    const payment = await payments.get(paymentId, callerOf(request).userId);
    reply.type(jsonContentType);
    return paymentJson(payment);
  });
}
