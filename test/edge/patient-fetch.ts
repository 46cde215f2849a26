import { setTimeout as sleep } from 'node:timers/promises';

const attemptsMax = 20;
const pauseMs = 500;

/**
 * One request of a buyer or an operator, sent again while a service is away or late (503, 504), as its clients do: what
 * has an effect carries a key or names what it makes, so that a repetition does no harm.
 */
export async function patientFetch(url: string, init: RequestInit): Promise<Response> {
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(url, init);
    if (![503, 504].includes(response.status) || attempt >= attemptsMax) return response;
    await response.body?.cancel();
    await sleep(pauseMs);
  }
}
