import type { FastifyInstance } from 'fastify';
import { refundJson } from '../refund.ts';
import type { Refunds } from '../refunds.ts';
import { readBody } from './request-body.ts';

const faulty = { config: { faulty: 'refund' } } as const;

export function addRefundRoutes(
  app: FastifyInstance,
  { refunds, onChange }: { refunds: Refunds; onChange: () => void },
): void {
  app.post('/refunds', faulty, async (request, reply) => {
    const body = readBody(request);
    const wanted = {
      sessionId: body.text('session'),
      refundId: body.id('metadata.refundId'),
      amount: body.amount('amount'),
    };
    const refund = refunds.create(wanted, body.idempotencyKey());
    onChange();
    reply.code(201);
    return refundJson(refund);
  });

  app.get<{ Params: { key: string } }>('/refunds/by-key/:key', faulty, async ({ params }) =>
    refundJson(refunds.readByKey(params.key)),
  );
}
