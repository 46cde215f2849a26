import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyRequest } from 'fastify';
import { endSoon } from '../runtime/bounded-end.ts';
import type { Log } from '../runtime/log.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import { HttpFault, type HttpFaultReason, problemOf } from './problem.ts';

const faultByCode: Readonly<Record<string, HttpFaultReason>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'BODY_TOO_LARGE',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'UNSUPPORTED_MEDIA_TYPE',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'MALFORMED_HTTP',
  FST_ERR_BAD_URL: 'MALFORMED_HTTP',
  FST_ERR_MAX_PARAM_LENGTH: 'URI_TOO_LONG',
  HPE_HEADER_OVERFLOW: 'HEADERS_TOO_LARGE',
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 'BODY_TOO_LARGE',
  ERR_HTTP_REQUEST_TIMEOUT: 'REQUEST_TIMEOUT',
};

/**
 * What a route, fastify or node threw, as something that a caller may see. Anything unknown is
 * INTERNAL: its text goes to the log under the instance and is never sent.
 */
export function faultOf(error: unknown, request: FastifyRequest, log: Log): Refusal | HttpFault {
  if (error instanceof Refusal || error instanceof HttpFault) return error;
  const { code, statusCode, validation } = (error ?? {}) as {
    code?: string;
    statusCode?: number;
    validation?: { instancePath: string; message?: string }[];
  };
  if (code === 'FST_ERR_HANDLER_TIMEOUT') {
    // A write may have been done; a read has no outcome that anybody must learn.
    return new Refusal(request.method === 'GET' ? 'DEPENDENCY_DOWN' : 'OUTCOME_UNKNOWN');
  }
  if (validation) {
    return invalidRequest(
      validation.map(({ instancePath, message = 'is not valid' }) => ({
        field: instancePath.slice(1).replaceAll('/', '.'),
        description: message,
      })),
    );
  }
  const reason = code === undefined ? undefined : faultByCode[code];
  if (reason) return new HttpFault(reason);
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new HttpFault('MALFORMED_HTTP');
  }
  log.error(
    { err: error, instance: request.id, route: request.routeOptions.url },
    'request failed',
  );
  return new HttpFault('INTERNAL');
}

/** Answers what node could not parse as a request or did not arrive in time, and closes the connection. */
export function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  if (
    error.code === 'ECONNRESET' ||
    socket.destroyed ||
    !socket.writable ||
    isAnswering(socket as AnsweringSocket)
  ) {
    socket.destroy();
    return;
  }
  const fault = new HttpFault(faultByCode[error.code ?? ''] ?? 'MALFORMED_HTTP');
  const { status, headers, body } = problemOf(fault, 'about:blank');
  const lines = [`HTTP/1.1 ${status} Error`, 'connection: close', `content-length: ${body.length}`];
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
  endSoon(socket, `${lines.join('\r\n')}\r\n\r\n${body}`);
}

type AnsweringSocket = Socket & {
  /** Node's own, which its default handler looks at for the same reason. */
  readonly _httpMessage?: ServerResponse | null;
};

/**
 * Whether a whole request is being answered on the connection. Its sender would take our answer for
 * that of the request, and a 4xx for the promise that nothing was done.
 */
function isAnswering({ _httpMessage: response }: AnsweringSocket): boolean {
  return response != null && (response.req.complete || response.headersSent);
}
