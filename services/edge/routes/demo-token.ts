import type { FastifyInstance, FastifyRequest } from 'fastify';
import { type FieldViolation, invalidRequest, Refusal } from '../../runtime/refusals.ts';
import type { Tokens } from '../../runtime/tokens.ts';
import { isLoopback } from '../config.ts';
import { jsonContentType } from '../http-server.ts';
import { JsonFields, JsonNames } from '../json-fields.ts';
import { timestampField } from '../stock-json.ts';

/** Long enough for a day of trying out. */
const demoTokenSeconds = 24 * 3_600;
const userIdBounds = { min: 1n, max: 2n ** 63n - 1n };
const names = new JsonNames('userId', 'role');

/** Hands a token to whoever sits at this machine. Added in demo mode only. */
export function addDemoTokenRoute(
  app: FastifyInstance,
  { tokens }: { tokens: Pick<Tokens, 'sign'> },
): void {
  const onRequest = (request: FastifyRequest, _reply: unknown, done: (error?: Error) => void) =>
    done(
      isFromThisMachine(request)
        ? undefined
        : new Refusal('FORBIDDEN', 'Demo tokens are given to this machine only'),
    );

  app.post('/v1/demo/token', { onRequest }, async (request, reply) => {
    const violations: FieldViolation[] = [];
    const fields = new JsonFields(request.body, names, violations);
    const userId = fields.int64('userId', userIdBounds);
    const role = fields.string('role');
    if (role !== '' && role !== 'admin') {
      violations.push({ field: 'role', description: 'must be admin, or absent for a buyer' });
    }
    if (violations.length > 0) throw invalidRequest(violations);
    const signed = tokens.sign({
      userId,
      ttlSeconds: demoTokenSeconds,
      ...(role === '' ? {} : { role }),
    });
    reply.type(jsonContentType);
    return `{"token":"${signed.token}"${timestampField('expireTime', signed.expireTime)}}`;
  });
}

/**
 * The peer and the client must both be this machine. A forwarding header from a proxy that is not
 * configured means that the client is not known; a foreign Host means that a web page of somebody
 * else has its name resolved to this machine.
 */
function isFromThisMachine(request: FastifyRequest): boolean {
  const { headers, ip, ips, socket } = request;
  const forwarded = headers['x-forwarded-for'] !== undefined || headers.forwarded !== undefined;
  if (forwarded && ips === undefined) return false;
  const host = (headers.host ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  return (
    isLoopback(socket.remoteAddress ?? '') &&
    isLoopback(ip) &&
    (host === 'localhost' || isLoopback(host))
  );
}
