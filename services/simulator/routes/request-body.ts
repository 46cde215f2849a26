import type { FastifyRequest } from 'fastify';
import { ApiError } from '../api-error.ts';
import type { Amount } from '../session.ts';

/** Reads what a call sends; each reader throws an ApiError that names the field. */
export interface RequestBody {
  /** The `Idempotency-Key` header. */
  idempotencyKey(): string;
  text(path: string): string;
  /** A positive int64, as text. */
  id(path: string): string;
  amount(path: string): Amount;
  /** Milliseconds since 1970 of an RFC 3339 time. */
  time(path: string): number;
}

const int64Max = 2n ** 63n - 1n;

export function readBody({ body, headers }: FastifyRequest): RequestBody {
  const text = (path: string): string => {
    const value = valueAt(body, path);
    if (typeof value === 'string' && /^[\x21-\x7e]{1,255}$/.test(value)) return value;
    throw invalid(path, 'must be text of 1 to 255 printable characters');
  };
  const positive = (path: string): bigint => {
    const value = text(path);
    const number = /^\d{1,19}$/.test(value) ? BigInt(value) : 0n;
    if (number > 0n && number <= int64Max) return number;
    throw invalid(path, 'must be a positive int64, as text');
  };
  return {
    text,
    idempotencyKey() {
      const key = headers['idempotency-key'];
      if (typeof key === 'string' && /^[\x21-\x7e]{1,255}$/.test(key)) return key;
      throw invalid('Idempotency-Key', 'must be a header of 1 to 255 printable characters');
    },
    id: (path) => String(positive(path)),
    amount(path) {
      const currencyCode = text(`${path}.currencyCode`);
      if (!/^[A-Z]{3}$/.test(currencyCode)) throw invalid(`${path}.currencyCode`, 'must be a code');
      return { currencyCode, minorUnits: positive(`${path}.minorUnits`) };
    },
    time(path) {
      const timeMs = Date.parse(text(path));
      if (Number.isFinite(timeMs)) return timeMs;
      throw invalid(path, 'must be an RFC 3339 time');
    },
  };
}

function valueAt(body: unknown, path: string): unknown {
  let value = body;
  for (const name of path.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name))
      return undefined;
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

function invalid(path: string, rule: string): ApiError {
  return new ApiError(400, 'invalid_request', `${path} ${rule}`);
}
