import { Failure, messageOf } from './failure.ts';

const requestTimeoutMs = 10_000;

/** A token from the edge's demo route. Throws a Failure when the edge does not give one (outside demo mode it does not). */
export async function demoToken(
  edgeUrl: string,
  claims: { userId: string; role?: string },
): Promise<string> {
  try {
    const response = await fetch(`${edgeUrl}/v1/demo/token`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(claims),
      signal: AbortSignal.timeout(requestTimeoutMs),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`HTTP ${response.status} ${text.slice(0, 300)}`);
    const { token } = JSON.parse(text) as { token?: unknown };
    if (typeof token !== 'string') throw new Error('the answer holds no token');
    return token;
  } catch (error) {
    throw new Failure(`The edge gave no demo token: ${messageOf(error)}.`, [], error);
  }
}
