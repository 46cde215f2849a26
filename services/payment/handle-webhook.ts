import { Batcher } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { mysqlErrno } from '../runtime/mysql.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import type { PaymentProvider } from './provider.ts';
import { type TakeInOptions, takeIn } from './take-in-webhooks.ts';
import type { SignedWebhook } from './webhook-inbox.ts';
import { cannotTakeEffect, setAside } from './webhooks-aside.ts';

/** A webhook as the route took it in. */
export interface RawWebhook {
  readonly provider: string;
  readonly body: Uint8Array;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Takes in one webhook; whether it had been taken in before. It is stored when this answers.
 *
 * @throws Refusal NOT_FOUND (no such provider), UNAUTHENTICATED (signature), INVALID_REQUEST, OUTCOME_UNKNOWN,
 *   DEPENDENCY_DOWN, OVERLOADED; after each the provider delivers it again
 */
export interface HandleWebhook {
  handle(webhook: RawWebhook, deadline: Deadline): Promise<boolean>;
  close(): Promise<void>;
}

export interface HandleWebhookOptions extends TakeInOptions {
  readonly providers: ReadonlyMap<string, Pick<PaymentProvider, 'readWebhook'>>;
}

const eventIdBytesMax = 255;
/** Webhooks in one transaction: their rows' locks are held together. */
const entriesMax = 100;
/** Bodies in one statement, far below MySQL's packet. */
const bytesMax = 1024 * 1024;
const inFlightMax = 2;
const slowMax = 1;
const queueDepthMax = 5_000;

/**
 * Webhooks that come together are taken in in one transaction. One whose payment others hold, or which makes the batch
 * fail, goes apart, where it holds up nobody; one that cannot take effect at all is set aside and tried again later.
 */
export function createHandleWebhook(options: HandleWebhookOptions): HandleWebhook {
  const { providers, metrics, log } = options;
  const batches = new Batcher<SignedWebhook, boolean | 'held'>({
    name: 'webhooks_to_mysql',
    ...{ entriesMax, bytesMax, inFlightMax, slowMax, queueDepthMax },
    sizeOf: ({ body }) => body.length,
    metrics: metrics.hops,
    async run(webhooks, { deadline }) {
      try {
        return await takeIn(options, webhooks, deadline, 'free');
      } catch (error) {
        if (error instanceof Refusal) throw error;
        log.warn({ err: error }, 'webhooks were not taken in together; each is tried alone');
        return webhooks.map(() => 'held');
      }
    },
  });

  async function takeInAlone(webhook: SignedWebhook, deadline: Deadline): Promise<boolean> {
    try {
      const [isDuplicate] = await takeIn(options, [webhook], deadline, 'all');
      return isDuplicate === true;
    } catch (error) {
      if (!cannotTakeEffect(error)) throw refusalOf(error);
      await setAside(options, webhook, error, deadline);
      return false;
    }
  }

  return {
    async handle({ provider, body, headers }, deadline) {
      const source = providers.get(provider);
      if (!source) throw new Refusal('NOT_FOUND', 'There is no such payment provider');
      const event = readEvent(source, body, headers, metrics);
      const webhook = { provider, event, body: Buffer.from(body) };
      const together = await batches.add(webhook, deadline);
      return together === 'held' ? await takeInAlone(webhook, deadline) : together;
    },
    close: () => batches.close(),
  };
}

function readEvent(
  source: Pick<PaymentProvider, 'readWebhook'>,
  body: Uint8Array,
  headers: Readonly<Record<string, string>>,
  metrics: PaymentMetrics,
): SignedWebhook['event'] {
  try {
    const event = source.readWebhook(body, headers, new Date());
    const bytes = Buffer.byteLength(event.eventId);
    if (bytes >= 1 && bytes <= eventIdBytesMax) return event;
    const description = `The event's id must have 1 to ${eventIdBytesMax} bytes.`;
    throw invalidRequest([{ field: 'body', description }]);
  } catch (error) {
    metrics.webhooks.inc({ effect: 'refused' });
    throw error;
  }
}

/** What the server complained of was rolled back; the provider delivers it again. */
function refusalOf(error: unknown): Error {
  if (mysqlErrno(error) === undefined) return error as Error;
  return new Refusal('OVERLOADED', 'The payment is being changed', { cause: error });
}
