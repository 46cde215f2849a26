import { countRefusal } from '../runtime/refusal-counts.ts';
import { type Refusal, type RefusalReason, refusalTable } from '../runtime/refusals.ts';

/** The media type of every error answer (RFC 9457). */
export const problemContentType = 'application/problem+json';

/** Faults of HTTP itself, which have no counterpart over gRPC; the other half of the error catalogue. */
export const httpFaultTable = {
  MALFORMED_HTTP: { http: 400, title: 'The HTTP request is malformed' },
  METHOD_NOT_ALLOWED: { http: 405, title: 'The method is not allowed here' },
  REQUEST_TIMEOUT: { http: 408, title: 'The request did not arrive in time' },
  BODY_TOO_LARGE: { http: 413, title: 'The body is too large' },
  URI_TOO_LONG: { http: 414, title: 'The URL is too long' },
  UNSUPPORTED_MEDIA_TYPE: { http: 415, title: 'The content type is not supported' },
  HEADERS_TOO_LARGE: { http: 431, title: 'The headers are too large' },
  INTERNAL: { http: 500, title: 'Something went wrong on our side' },
} as const;

export type HttpFaultReason = keyof typeof httpFaultTable;

/** A fault of HTTP itself. */
export class HttpFault extends Error {
  readonly reason: HttpFaultReason;
  /** The methods that the URL has, for the `allow` header of a 405. */
  readonly allow: readonly string[];

  constructor(reason: HttpFaultReason, message?: string, allow: readonly string[] = []) {
    super(message ?? httpFaultTable[reason].title);
    this.name = 'HttpFault';
    this.reason = reason;
    this.allow = allow;
  }
}

/** An error answer, ready to be sent. */
export interface Problem {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/**
 * The answer to a refusal or fault.
 *
 * @param instance identifies this occurrence, so that a person can ask for it; it is in the log too
 */
export function problemOf(error: Refusal | HttpFault, instance: string): Problem {
  const headers: Record<string, string> = { 'content-type': problemContentType };
  if (error instanceof HttpFault) {
    if (error.allow.length > 0) headers.allow = error.allow.join(', ');
    const body = `${opening(error.reason, error.message, instance)}}`;
    return { status: httpFaultTable[error.reason].http, headers, body };
  }
  countRefusal(error.reason);
  const { http, title, business } = refusalTable[error.reason];
  // The text of a failure names services and calls inside; it is for the log, not for the buyer.
  let body = opening(error.reason, business ? error.message : title, instance);
  if (error.skuId !== undefined) body += `,"skuId":"${error.skuId}"`;
  if (error.violations.length > 0) body += `,"violations":${JSON.stringify(error.violations)}`;
  if (error.retryAfterMs > 0) {
    headers['retry-after'] = String(Math.ceil(error.retryAfterMs / 1_000));
  }
  if (error.reason === 'UNAUTHENTICATED') headers['www-authenticate'] = 'Bearer realm="sluice"';
  return { status: http, headers, body: `${body}}` };
}

/** The problem type of a reason: `https://sluice.dev/problems/sold-out`. */
export function problemType(reason: RefusalReason | HttpFaultReason): string {
  return `https://sluice.dev/problems/${reason.toLowerCase().replaceAll('_', '-')}`;
}

// The constant start of every problem, made once: at a sell-out this is the answer to nearly everybody.
const constants = new Map<string, string>();
for (const [reason, { http, title }] of Object.entries({ ...refusalTable, ...httpFaultTable })) {
  const type = problemType(reason as RefusalReason);
  constants.set(
    reason,
    `{"type":"${type}","title":${JSON.stringify(title)},"status":${http},"reason":"${reason}"`,
  );
}

function opening(reason: string, detail: string, instance: string): string {
  return `${constants.get(reason)},"detail":${JSON.stringify(detail)},"instance":"${instance}"`;
}
