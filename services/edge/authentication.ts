import type { FastifyRequest } from 'fastify';
import { Refusal } from '../runtime/refusals.ts';
import type { Tokens } from '../runtime/tokens.ts';

/** Who sends a request, from its bearer token. */
export interface Caller {
  readonly userId: bigint;
  readonly role: string | undefined;
  /** The token itself, to be forwarded on operators' calls. */
  readonly token: string;
}

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller | null;
  }
}

const scheme = 'bearer ';

type Hook = (request: FastifyRequest, reply: unknown, done: (error?: Error) => void) => void;

/** Hooks that run before the body is read, so that a stranger's body is never parsed. */
export interface Authentication {
  /** Any valid token. */
  readonly user: Hook;
  /** A valid token with the role `admin`. */
  readonly admin: Hook;
}

export function createAuthentication(tokens: Pick<Tokens, 'verify'>): Authentication {
  const authenticate = (request: FastifyRequest): Caller => {
    const token = bearerToken(request.headers.authorization);
    const { userId, role } = tokens.verify(token);
    request.caller = { userId, role, token };
    return request.caller;
  };
  return {
    user: hook(authenticate),
    admin: hook((request) => {
      if (authenticate(request).role !== 'admin') {
        throw new Refusal('FORBIDDEN', 'This needs a token with the role admin');
      }
    }),
  };
}

/** The caller of a request whose route has one of the hooks. */
export function callerOf(request: FastifyRequest): Caller {
  if (request.caller === null) throw new Error('this route lacks its authentication hook');
  return request.caller;
}

function bearerToken(header: string | undefined): string {
  if (header === undefined) {
    throw new Refusal('UNAUTHENTICATED', 'Send the header Authorization: Bearer <token>');
  }
  if (header.slice(0, scheme.length).toLowerCase() !== scheme) {
    throw new Refusal('UNAUTHENTICATED', 'The Authorization header is not Bearer <token>');
  }
  return header.slice(scheme.length).trim();
}

function hook(check: (request: FastifyRequest) => unknown): Hook {
  return (request, _reply, done) => {
    try {
      check(request);
      done();
    } catch (error) {
      done(error as Error);
    }
  };
}
