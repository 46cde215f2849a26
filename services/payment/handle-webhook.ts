import { Batcher } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { duplicateKeyErrno, mysqlErrno, type PoolConnection } from '../runtime/mysql.ts';
import { invalidRequest, Refusal } from '../runtime/refusals.ts';
import { moveRefunds, noteRefund, type ReportedRefund } from './apply-refund-state.ts';
import {
  type AfterSettling,
  type MovedPayments,
  movePayments,
  settle,
} from './apply-session-state.ts';
import type { SessionReport } from './payment.ts';
import { batchTransaction, type PaymentDatabase } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import type { PaymentProvider } from './provider.ts';
import {
  type KeptWebhook,
  keepWebhooks,
  keyOf,
  readKnown,
  type SignedWebhook,
} from './webhook-inbox.ts';

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

export interface HandleWebhookOptions {
  readonly database: PaymentDatabase;
  readonly providers: ReadonlyMap<string, Pick<PaymentProvider, 'readWebhook'>>;
  readonly afterSettling: AfterSettling;
  readonly metrics: PaymentMetrics;
  readonly log: Log;
}

const eventIdBytesMax = 255;
/** Webhooks in one transaction: their rows' locks are held together. */
const entriesMax = 100;
/** Bodies in one statement, far below MySQL's packet. */
const bytesMax = 1024 * 1024;
const inFlightMax = 2;
const queueDepthMax = 5_000;
/** Losing the same key, or a deadlock, to others this often in a row means something else is wrong. */
const attemptsMax = 4;
/** Waiting for one lock once is all that the deadline of a webhook has room for; then each goes alone, and may wait once. */
const lockWaitsMax = 1;
/** Server error: others hold what this waits for, and the other way round. */
const deadlockErrno = 1213;

export function createHandleWebhook(options: HandleWebhookOptions): HandleWebhook {
  const { providers, metrics } = options;
  const batches = new Batcher<SignedWebhook, boolean>({
    name: 'webhooks_to_mysql',
    ...{ entriesMax, bytesMax, inFlightMax, queueDepthMax },
    sizeOf: ({ body }) => body.length,
    metrics: metrics.hops,
    run: (webhooks, { deadline }) => takeIn(options, webhooks, deadline),
  });
  return {
    async handle({ provider, body, headers }, deadline) {
      const source = providers.get(provider);
      if (!source) throw new Refusal('NOT_FOUND', 'There is no such payment provider');
      const event = readEvent(source, body, headers, metrics);
      return await batches.add({ provider, event, body: Buffer.from(body) }, deadline);
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

/** A batch in one transaction; if one of them makes it fail, each alone, so that the others are kept. */
async function takeIn(
  options: HandleWebhookOptions,
  webhooks: readonly SignedWebhook[],
  deadline: Deadline,
): Promise<(boolean | Error)[]> {
  try {
    return await keepOnce(options, webhooks, deadline);
  } catch (error) {
    const ours = error instanceof Refusal;
    if (ours || webhooks.length === 1) throw refusalOf(error);
    options.log.warn({ err: error }, 'a batch of webhooks failed; each is tried alone');
  }
  const results: (boolean | Error)[] = [];
  for (const webhook of webhooks) {
    const alone = keepOnce(options, [webhook], deadline).catch((cause) => [refusalOf(cause)]);
    results.push((await alone)[0] as boolean | Error);
  }
  return results;
}

/** What the server complained of was rolled back; the provider delivers it again. */
function refusalOf(error: unknown): Error {
  if (mysqlErrno(error) === undefined) return error as Error;
  return new Refusal('OVERLOADED', 'The payment is being changed', { cause: error });
}

async function keepOnce(
  { database, afterSettling, metrics, log }: HandleWebhookOptions,
  webhooks: readonly SignedWebhook[],
  deadline: Deadline,
): Promise<boolean[]> {
  const first = new Map<string, SignedWebhook>();
  for (const webhook of webhooks) {
    if (!first.has(keyOf(webhook))) first.set(keyOf(webhook), webhook);
  }
  for (let attempt = 1; ; attempt += 1) {
    try {
      const options = { deadline, attempts: lockWaitsMax };
      const taken = await batchTransaction(database, options, (connection) =>
        keepAndApply(connection, [...first.values()]),
      );
      if (failpoints.on) await failpoints.hit('payment.after_webhook_commit', infoOf(taken.kept));
      settle(taken.moved, afterSettling, log);
      for (const reported of taken.refunds) noteRefund({ metrics, log }, reported);
      if (taken.refunds.some(({ effect }) => effect === 'applied')) afterSettling.wakeRefunds();
      const effects = new Map(taken.kept.map(({ event, effect }) => [event, effect]));
      return webhooks.map(({ event }) => {
        metrics.webhooks.inc({ effect: effects.get(event) ?? 'duplicate' });
        return !effects.has(event);
      });
    } catch (error) {
      const errno = mysqlErrno(error);
      const isLost = errno === duplicateKeyErrno || errno === deadlockErrno;
      if (!isLost || attempt >= attemptsMax) throw error;
    }
  }
}

interface TakenIn {
  readonly kept: readonly KeptWebhook[];
  readonly moved: MovedPayments;
  readonly refunds: readonly ReportedRefund[];
}

/** Those not known yet take effect and are kept with what it was, or none of that happens. */
async function keepAndApply(
  connection: PoolConnection,
  webhooks: readonly SignedWebhook[],
): Promise<TakenIn> {
  const known = await readKnown(connection, webhooks);
  const fresh = webhooks.filter((webhook) => !known.has(keyOf(webhook)));
  const ofSessions = fresh.filter(({ event }) => event.subject.kind === 'session');
  const moved = await movePayments(connection, ofSessions.flatMap(reportOf));
  const effects = new Map(
    ofSessions.map((webhook, index) => {
      const result = moved.results[index];
      const effect = result?.effect ?? 'unknown_payment';
      return [webhook, { effect, paymentId: result?.payment.paymentId }] as const;
    }),
  ) as Map<SignedWebhook, Pick<KeptWebhook, 'effect' | 'paymentId'>>;
  const ofRefunds = fresh.flatMap((webhook) => {
    const { subject } = webhook.event;
    return subject.kind === 'refund' ? [{ webhook, ...subject }] : [];
  });
  const refunds = await moveRefunds(connection, ofRefunds);
  for (const [index, { webhook }] of ofRefunds.entries()) {
    const { effect = 'unknown_refund', refund } = refunds[index] ?? {};
    effects.set(webhook, { effect, paymentId: refund?.paymentId });
  }
  const kept = fresh.map((webhook) => ({
    ...webhook,
    ...(effects.get(webhook) ?? { effect: 'unknown_type', paymentId: undefined }),
  }));
  await keepWebhooks(connection, kept);
  if (failpoints.on) await failpoints.hit('payment.before_webhook_commit', infoOf(kept));
  return { kept, moved, refunds: refunds.filter((reported) => reported !== undefined) };
}

function reportOf({ provider, event }: SignedWebhook): SessionReport[] {
  const { subject } = event;
  if (subject.kind !== 'session') return [];
  const { paymentId, reference, state } = subject;
  return [{ paymentId, provider, reference, state }];
}

function infoOf(kept: readonly KeptWebhook[]): { eventIds: string[] } {
  return { eventIds: kept.map(({ event }) => event.eventId) };
}
