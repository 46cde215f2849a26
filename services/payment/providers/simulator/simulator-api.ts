import type { Deadline } from '../../../runtime/deadline.ts';
import type { Log } from '../../../runtime/log.ts';
import { Refusal } from '../../../runtime/refusals.ts';
import { ReplayedRefusal, retryAfterMsOf } from '../../provider-refusal.ts';
import { fieldsOf } from './simulator-messages.ts';

/** An answer longer than this is not one of the simulator's. */
const answerBytesMax = 64 * 1_024;

export interface ApiSettings {
  readonly url: string;
  readonly apiKey: string;
}

export interface CallOptions {
  readonly idempotencyKey?: string;
  readonly body?: unknown;
  /** Statuses from 400 on that the caller reads itself. */
  readonly passStatuses?: readonly number[];
}

export interface SimulatorApi {
  /**
   * Makes one call, never a second.
   *
   * @throws Refusal OUTCOME_UNKNOWN (no answer in time, lost, or 5xx), DEPENDENCY_DOWN (surely not done: not reached,
   * refused for our key), OVERLOADED (surely not done: no time left, turned away for the rate), INVALID_REQUEST (refused
   * for good)
   */
  call(
    method: 'GET' | 'POST',
    path: string,
    deadline: Deadline,
    options?: CallOptions,
  ): Promise<{ status: number; body: unknown }>;
}

export function createSimulatorApi(settings: ApiSettings, log: Log): SimulatorApi {
  const { url, apiKey } = settings;
  return {
    async call(method, path, deadline, options = {}) {
      const { idempotencyKey, body, passStatuses = [] } = options;
      const leftMs = deadline.leftMs();
      if (leftMs <= 0) throw new Refusal('OVERLOADED', 'no time was left to ask the simulator');
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), leftMs);
      try {
        const response = await fetch(`${url}${path}`, {
          method,
          // A redirect would take the key, and the payment, to somebody else.
          redirect: 'error',
          signal: abort.signal,
          headers: {
            authorization: `Bearer ${apiKey}`,
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
            ...(idempotencyKey === undefined ? {} : { 'idempotency-key': idempotencyKey }),
          },
          ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        });
        const { status } = response;
        const answer = await readJson(response);
        if (status === 401 || status === 403)
          log.error({ status }, 'the simulator refuses our key');
        if (status >= 400 && !passStatuses.includes(status)) throw refusalOf(response, answer);
        return { status, body: answer };
      } catch (error) {
        throw error instanceof Refusal ? error : lostCall(error);
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

async function readJson(response: Response): Promise<unknown> {
  let bytes = 0;
  const chunks: Uint8Array[] = [];
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > answerBytesMax) throw new Error('the answer is too long');
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString('utf8');
  // An error's body may be a proxy's; its status says enough.
  if (!response.ok) return parsed(text);
  return JSON.parse(text);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusalOf({ status, headers }: Response, answer: unknown): Refusal {
  const { code, message } = fieldsOf(fieldsOf(answer).error);
  const text = `the simulator answered ${status} ${String(code ?? '')}: ${String(message ?? '')}`;
  const details = { answered: true };
  if (status === 429) {
    const retryAfterMs = retryAfterMsOf(headers.get('retry-after'));
    return new Refusal('OVERLOADED', text, { ...details, retryAfterMs });
  }
  // A wrong key is our own setting: nothing was done, and no payment or refund is to fail for it. 408: it gave up on a
  // request that did not arrive whole, so nothing was done either.
  if ([401, 403, 408].includes(status)) return new Refusal('DEPENDENCY_DOWN', text, details);
  if (status < 500) return new Refusal('INVALID_REQUEST', text, details);
  if (headers.get('idempotent-replayed') === 'true') {
    return new ReplayedRefusal('OUTCOME_UNKNOWN', text, details);
  }
  const reason = status === 503 ? 'DEPENDENCY_DOWN' : 'OUTCOME_UNKNOWN';
  return new Refusal(reason, text);
}

/** Errors of a connection that was never made: the request cannot have been read by anybody. */
const notConnected = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

function lostCall(error: unknown): Refusal {
  const code = fieldsOf(fieldsOf(error).cause).code;
  if (typeof code === 'string' && notConnected.has(code)) {
    return new Refusal('DEPENDENCY_DOWN', 'the simulator cannot be reached', { cause: error });
  }
  return new Refusal('OUTCOME_UNKNOWN', 'the simulator did not answer', { cause: error });
}
