import { HttpFault } from './problem.ts';

/** More than any provider and the proxies on the way send; their size node bounds. */
const headersMax = 64;

/** Headers that speak of one connection only (RFC 9110, 7.6.1). */
const hopHeaders = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

/**
 * The headers of a request as they came: names in lower case, values of a repeated name joined by
 * commas in their order, so that nothing a signature may stand in is dropped. Those of the connection
 * are left out, also the ones that `Connection` names.
 *
 * @param rawHeaders names and values in turns, as node gives them
 * @throws HttpFault HEADERS_TOO_LARGE if there are more than 64
 */
export function webhookHeaders(rawHeaders: readonly string[]): Record<string, string> {
  if (rawHeaders.length > 2 * headersMax) {
    throw new HttpFault('HEADERS_TOO_LARGE', `More than ${headersMax} headers`);
  }
  // Without a prototype, because a header may be named __proto__.
  const headers: Record<string, string> = Object.create(null);
  let connection = '';
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = (rawHeaders[index] as string).toLowerCase();
    const value = rawHeaders[index + 1] as string;
    if (name === 'connection') connection += `,${value}`;
    if (hopHeaders.has(name)) continue;
    const before = headers[name];
    headers[name] = before === undefined ? value : `${before}, ${value}`;
  }
  if (connection !== '' && !/^,(?:keep-alive|close)$/i.test(connection)) {
    for (const name of connection.split(',')) delete headers[name.trim().toLowerCase()];
  }
  return headers;
}
