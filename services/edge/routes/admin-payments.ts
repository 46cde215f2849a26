import type { FastifyInstance } from 'fastify';
import { type Authentication, callerOf } from '../authentication.ts';
import { jsonContentType } from '../http-server.ts';
import type { PaymentGateway } from '../payment-gateway.ts';
import { paymentJson, refundJson } from '../payment-json.ts';
import { readPathId } from '../query.ts';
import { readRefundRequest } from '../refund-request.ts';

/** Internal callers of payment read any user's payment under this id. */
const anyUser = 0n;

/** Operators' work on payments; the operator's own token goes along with a refund. */
export function addAdminPaymentRoutes(
  app: FastifyInstance,
  { payments, authentication }: { payments: PaymentGateway; authentication: Authentication },
): void {
  const onRequest = authentication.admin;

  app.get('/v1/admin/payments/:id', { onRequest }, async (request, reply) => {
    const paymentId = readPathId(request.params, 'paymentId');
    const payment = await payments.get(paymentId, anyUser);
    reply.type(jsonContentType);
    return paymentJson(payment);
  });

  app.post('/v1/admin/payments/:id/refunds', { onRequest }, async (request, reply) => {
    const paymentId = readPathId(request.params, 'paymentId');
    const key = request.headers['idempotency-key'];
    const wanted = readRefundRequest(paymentId, key, request.body);
    const refund = await payments.refund(wanted, callerOf(request).token);
    // A refund is seen with its payment, and has no address of its own.
    reply.code(201).header('location', `/v1/admin/payments/${paymentId}`).type(jsonContentType);
    return refundJson(refund);
  });
}
