import { createTokens } from '../../services/runtime/tokens.ts';
import { type HttpRequests, textBehind } from './http-target.ts';
import type { Sale } from './sale.ts';

/** Orders as browsers send them, each buyer with a token of its own. */
export function createOrderRequests(
  url: string,
  { tokenSecret, sale }: { tokenSecret: string; sale: Sale },
): HttpRequests {
  const heads = requestHeads(new URL(url).host, tokenSecret, sale);
  return {
    textOf(number) {
      const { lines, requestId } = sale.requestOf(number);
      const line = lines[0];
      const body = `{"lines":[{"skuId":"${line?.skuId}","quantity":${line?.quantity}}]}`;
      const head = heads[sale.userIndexOf(number)];
      return `${head}${requestId}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    },
    read({ status, body }) {
      if (status === 201) return BigInt(textBehind(body, '"orderId":"'));
      return textBehind(body, '"reason":"');
    },
  };
}

/** Everything of a request up to the value of its last variable header, made once for each buyer. */
function requestHeads(host: string, tokenSecret: string, sale: Sale): string[] {
  const tokens = createTokens({ secret: tokenSecret });
  const heads: string[] = [];
  for (let userId = sale.firstUserId; userId <= sale.lastUserId; userId += 1n) {
    const { token } = tokens.sign({ userId, ttlSeconds: 24 * 3_600 });
    heads.push(
      `POST /v1/orders HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n` +
        `authorization: Bearer ${token}\r\nidempotency-key: `,
    );
  }
  return heads;
}
