import { createHmac } from 'node:crypto';

/** The header of a webhook that proves who sent it, and when. */
export const signatureHeader = 'sluice-simulator-signature';

/**
 * The value of that header, `t=<seconds since 1970>,v1=<hex HMAC-SHA256 of "t.body">`, as Stripe signs.
 *
 * @param timeS when it is sent; each attempt is signed anew, so that a late one is not an old one
 */
export function signWebhook(body: string, key: string, timeS: number): string {
  const digest = createHmac('sha256', key).update(`${timeS}.${body}`).digest('hex');
  return `t=${timeS},v1=${digest}`;
}
