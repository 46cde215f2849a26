import type { FastifyInstance } from 'fastify';
import type { CallKind } from '../faults.ts';
import { sessionJson } from '../session.ts';
import type { Sessions } from '../sessions.ts';
import { readBody } from './request-body.ts';

const faulty = (kind: CallKind) => ({ config: { faulty: kind } });

/** Sessions: opened, read and closed by the merchant; paid and failed without a browser, for load tests. */
export function addSessionRoutes(
  app: FastifyInstance,
  { sessions, pageUrl, onChange }: SessionRoutesOptions,
): void {
  app.post('/sessions', faulty('open'), async (request, reply) => {
    const body = readBody(request);
    const wanted = {
      paymentId: body.id('metadata.paymentId'),
      orderId: body.id('metadata.orderId'),
      amount: body.amount('amount'),
      expireMs: body.time('expireTime'),
    };
    const session = sessions.open(wanted, body.idempotencyKey());
    reply.code(201);
    return sessionJson(session, pageUrl());
  });

  app.get<WithId>('/sessions/:id', faulty('read'), async ({ params }) =>
    sessionJson(sessions.read(params.id), pageUrl()),
  );

  app.post<WithId>('/sessions/:id/close', faulty('close'), async ({ params }) => {
    const session = sessions.close(params.id);
    onChange();
    return sessionJson(session, pageUrl());
  });

  app.post<WithId>('/sessions/:id/pay', async ({ params }) => {
    const session = sessions.pay(params.id);
    onChange();
    return sessionJson(session, pageUrl());
  });

  app.post<WithId>('/sessions/:id/fail', async ({ params }) => {
    const session = sessions.fail(params.id, 'the card was declined');
    onChange();
    return sessionJson(session, pageUrl());
  });
}

export interface SessionRoutesOptions {
  readonly sessions: Sessions;
  readonly pageUrl: () => string;
  /** Called after a change that may have made a webhook. */
  readonly onChange: () => void;
}

interface WithId {
  Params: { id: string };
}
