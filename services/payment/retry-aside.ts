import { startClaimedWork } from '../runtime/claimed-work.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Loop } from '../runtime/loop.ts';
import type { PaymentProvider } from './provider.ts';
import { type TakeInOptions, takeIn } from './take-in-webhooks.ts';
import { claimAside, type WebhookAside } from './webhooks-aside.ts';

export interface RetryAsideOptions extends TakeInOptions {
  readonly providers: ReadonlyMap<string, Pick<PaymentProvider, 'readStored'>>;
}

const intervalMs = 5_000;
const deadlineMs = 5_000;
/** What is wrong with them is mended by people. */
const backoff = { firstMs: 5_000, maxMs: 300_000 };
/** Tried at once: there are few, and they have time. */
const slots = 2;

/** Tries webhooks again that could not take effect; each leaves the place aside in the transaction of its effect. */
export function startRetryAside(options: RetryAsideOptions): Loop {
  return startClaimedWork<WebhookAside>({
    name: 'webhooks-aside',
    ...{ intervalMs, slots, log: options.log },
    claim: (max) => claimAside(options.database, { backoff, max }, Deadline.after(deadlineMs)),
    async run({ provider, eventId, body }) {
      const source = options.providers.get(provider);
      if (!source) throw new Error(`the provider ${provider} is not configured`);
      const webhook = { provider, event: source.readStored(body), body };
      await takeIn(options, [webhook], Deadline.after(deadlineMs), 'all', async (connection) => {
        const statement = 'DELETE FROM webhooks_aside WHERE provider = ? AND event_id = ?';
        await connection.query(statement, [provider, eventId]);
      });
    },
  });
}
