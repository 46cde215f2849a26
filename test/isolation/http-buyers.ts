import { demoTokenSecret } from '../../services/runtime/env.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { attemptOf } from './buyers.ts';
import type { Attempt, Group } from './harness.ts';

export interface HttpBuyersOptions {
  /** Where the edge is. */
  readonly url: string;
  /** Names the group in its request ids. */
  readonly label: string;
  readonly perSecond: number;
  readonly skuIds: readonly bigint[];
  /** Users are numbered from here; each attempt is another user's. */
  readonly firstUserId: bigint;
}

const tokens = createTokens({ secret: demoTokenSecret });

/** Buyers of one unit each over HTTP, of the SKUs in turn, each attempt under a key of its own. */
export function httpBuyers(options: HttpBuyersOptions): Group {
  const { url, label, perSecond, skuIds, firstUserId } = options;
  return {
    perSecond,
    async send(number) {
      const skuId = String(skuIds[number % skuIds.length]);
      const { token } = tokens.sign({ userId: firstUserId + BigInt(number), ttlSeconds: 600 });
      const response = await fetch(`${url}/v1/orders`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${token}`,
          'content-type': 'application/json',
          'idempotency-key': `${label}-${number}`,
        },
        body: JSON.stringify({ lines: [{ skuId, quantity: 1 }] }),
      });
      return await attemptFrom(response, 201);
    },
  };
}

/** How an answer over HTTP counts. */
export async function attemptFrom(response: Response, madeStatus = 200): Promise<Attempt> {
  const text = await response.text();
  if (response.status === madeStatus) return { outcome: 'made' };
  const { reason = String(response.status) } = JSON.parse(text) as { reason?: string };
  return attemptOf(reason);
}
