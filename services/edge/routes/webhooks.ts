import type { IncomingMessage } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Refusal } from '../../runtime/refusals.ts';
import { jsonContentType } from '../http-server.ts';
import type { PaymentGateway } from '../payment-gateway.ts';
import type { UnfinishedBodies } from '../unfinished-bodies.ts';
import { webhookHeaders } from '../webhook-headers.ts';

export const webhookBodyBytesMax = 256 * 1_024;
/** Names that payment could know; anything else is not worth a call. */
const providerPattern = /^[a-z][a-z0-9-]{0,31}$/;

const noBody = Buffer.alloc(0);
const answers = { true: '{"duplicate":true}', false: '{"duplicate":false}' } as const;

type Done = (error?: Error) => void;

export interface WebhookRouteOptions {
  readonly payments: Pick<PaymentGateway, 'webhook'>;
  /** Webhooks under way that have arrived whole; one more is answered 503 and comes again. */
  readonly inFlightMax: number;
  /** Reads what has not arrived whole, in memory of its own. */
  readonly bodies: UnfinishedBodies;
}

/**
 * Takes in the webhooks of payment providers. There is no token: the signature over the very bytes of
 * the body is the proof, and payment checks it. Anything but 200 makes the provider send it again.
 */
export function addWebhookRoute(
  app: FastifyInstance,
  { payments, inFlightMax, bodies }: WebhookRouteOptions,
): void {
  let inFlight = 0;
  const leave = (): void => {
    inFlight -= 1;
  };
  /** Only once the body is there: anybody can begin one, and hold its place for seconds. */
  const takePlace = (reply: FastifyReply): void => {
    if (inFlight >= inFlightMax) throw new Refusal('OVERLOADED');
    inFlight += 1;
    // Not onResponse, which a sender that goes away before its answer never comes to.
    reply.raw.once('close', leave);
  };

  const onRequest = (request: FastifyRequest, _reply: unknown, done: Done): void => {
    // Fastify refuses a content type that is none; what payment gets comes from the raw headers.
    delete request.raw.headers['content-type'];
    done();
  };

  // A scope of its own, because its bodies are never parsed, whatever their type.
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request: unknown, body: IncomingMessage) =>
      bodies.read(body),
    );
    const options = {
      bodyLimit: webhookBodyBytesMax,
      onRequest,
      config: { ownDeadline: true },
    };
    scope.post('/v1/webhooks/:provider', options, async (request, reply) => {
      const { provider } = request.params as { provider: string };
      if (!providerPattern.test(provider)) {
        throw new Refusal('NOT_FOUND', 'There is no such provider');
      }
      const headers = webhookHeaders(request.raw.rawHeaders);
      const body = (request.body as Buffer | undefined) ?? noBody;
      takePlace(reply);
      const duplicate = await payments.webhook({ provider, body, headers });
      reply.type(jsonContentType);
      return answers[`${duplicate}`];
    });
  });
}
