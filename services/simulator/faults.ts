import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError } from './api-error.ts';
import { createCallLimit } from './call-limit.ts';
import type { KnobPanel } from './knobs.ts';
import type { StoredErrors } from './stored-errors.ts';

/** What a call is about; each kind has a rate of its own. */
export type CallKind = 'open' | 'read' | 'close' | 'refund';

export interface FaultsOptions {
  readonly knobs: KnobPanel;
  readonly storedErrors: StoredErrors;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  /** Aborted when the process stops: calls that the knobs hold up end. */
  readonly stopping: AbortSignal;
}

/** An answer that never comes comes to an end by then. */
const hangMsMax = 30_000;

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The kind of a call that the knobs may slow, turn away and lose the answer of. */
    faulty?: CallKind;
  }
}

/** What the knobs do to calls: turned away or slow before, and afterwards, when everything is done, no answer. */
export function addFaults(app: FastifyInstance, options: FaultsOptions): void {
  const { knobs, storedErrors, now, stopping } = options;
  const limit = createCallLimit();
  app.addHook('preHandler', async (request, reply) => {
    const kind = request.routeOptions.config.faulty;
    if (kind === undefined) return;
    const { slowMs, limitPerSecond, retryAfterS, storeErrors } = knobs.now;
    if (!limit.mayGo(kind, limitPerSecond)) {
      if (retryAfterS > 0) reply.header('retry-after', String(retryAfterS));
      throw new ApiError(429, 'rate_limited', `more than ${limitPerSecond} of these a second`);
    }
    // A caller that has gone meanwhile changes nothing: its call is done late, as in life.
    if (slowMs > 0) await sleep(slowMs, undefined, { signal: stopping });
    const call = keyedCall(request);
    if (call === undefined) return;
    const isReplayed = storedErrors.has(call, now());
    if (!isReplayed && !storeErrors) return;
    if (isReplayed) reply.header('idempotent-replayed', 'true');
    else storedErrors.add(call, now());
    throw new ApiError(500, 'internal', 'something went wrong, and will go wrong under this key');
  });
  app.addHook('onSend', async (request, reply, payload) => {
    const { loseAnswers, loseShare } = knobs.now;
    if (!request.routeOptions.config.faulty || loseAnswers === 'no') return payload;
    if (reply.statusCode >= 400 || Math.random() >= loseShare) return payload;
    const { socket } = request.raw;
    if (loseAnswers === 'hang') await leavesWithin(socket, hangMsMax);
    socket.destroy();
    return payload;
  });
}

/** The name of a call that carries an idempotency key: one key may be used on several routes. */
function keyedCall({ headers, method, routeOptions }: FastifyRequest): string | undefined {
  const key = headers['idempotency-key'];
  return typeof key === 'string' ? `${method} ${routeOptions.url} ${key}` : undefined;
}

async function leavesWithin(socket: Socket, boundMs: number): Promise<void> {
  if (socket.destroyed) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, boundMs);
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
