import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { duplicateKeyErrno, mysqlErrno, type PoolConnection } from '../runtime/mysql.ts';
import { moveRefunds, noteRefund, type ReportedRefund } from './apply-refund-state.ts';
import {
  type AfterSettling,
  type MovedPayments,
  movePayments,
  settle,
} from './apply-session-state.ts';
import type { SessionReport } from './payment.ts';
import { batchTransaction, type PaymentDatabase, waitingTransaction } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import {
  type KeptWebhook,
  keepWebhooks,
  keyOf,
  readKnown,
  type SignedWebhook,
} from './webhook-inbox.ts';

export interface TakeInOptions {
  readonly database: PaymentDatabase;
  readonly afterSettling: AfterSettling;
  readonly metrics: PaymentMetrics;
  readonly log: Log;
}

/** Losing the same key, or a deadlock, to others this often in a row means something else is wrong. */
const attemptsMax = 4;
/** Server error: others hold what this waits for, and the other way round. */
const deadlockErrno = 1213;

/**
 * Takes webhooks in, in one transaction with their effects; whether each had been taken in before.
 *
 * @param rows `free`: those whose payment or refund others hold are left out, and answered as `held`; `all`: waits for them
 * @param also what the transaction does besides
 * @throws the driver's error if one of them makes it fail; Refusal
 */
export async function takeIn(
  { database, afterSettling, metrics, log }: TakeInOptions,
  webhooks: readonly SignedWebhook[],
  deadline: Deadline,
  rows: 'free' | 'all',
  also?: (connection: PoolConnection) => Promise<void>,
): Promise<(boolean | 'held')[]> {
  const first = new Map<string, SignedWebhook>();
  for (const webhook of webhooks) {
    if (!first.has(keyOf(webhook))) first.set(keyOf(webhook), webhook);
  }
  const work = async (connection: PoolConnection): Promise<TakenIn> => {
    const taken = await keepAndApply(connection, [...first.values()], rows);
    await also?.(connection);
    if (failpoints.on) await failpoints.hit('payment.before_webhook_commit', infoOf(taken.kept));
    return taken;
  };
  for (let attempt = 1; ; attempt += 1) {
    try {
      const taken =
        rows === 'free'
          ? await batchTransaction(database, { deadline, attempts: 1 }, work)
          : await waitingTransaction(database, { deadline, attempts: 1 }, work);
      if (failpoints.on) await failpoints.hit('payment.after_webhook_commit', infoOf(taken.kept));
      settle(taken.moved, afterSettling, log);
      for (const reported of taken.refunds) noteRefund({ metrics, log }, reported);
      if (taken.refunds.some(({ effect }) => effect === 'applied')) afterSettling.wakeRefunds();
      const effects = new Map(taken.kept.map(({ event, effect }) => [event, effect]));
      return webhooks.map((webhook) => {
        if (taken.held.has(keyOf(webhook))) return 'held';
        metrics.webhooks.inc({ effect: effects.get(webhook.event) ?? 'duplicate' });
        return !effects.has(webhook.event);
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
  /** Keys of those that were left out. */
  readonly held: ReadonlySet<string>;
}

/** What a webhook came to. */
type Effect = Pick<KeptWebhook, 'effect' | 'paymentId'>;

/** Those not known yet take effect and are kept with what it was, or none of that happens. */
async function keepAndApply(
  connection: PoolConnection,
  webhooks: readonly SignedWebhook[],
  rows: 'free' | 'all',
): Promise<TakenIn> {
  const known = await readKnown(connection, webhooks);
  const fresh = webhooks.filter((webhook) => !known.has(keyOf(webhook)));
  const effects = new Map<SignedWebhook, Effect | 'held'>();
  const ofSessions = fresh.filter(({ event }) => event.subject.kind === 'session');
  const moved = await movePayments(connection, ofSessions.flatMap(reportOf), rows);
  for (const [index, webhook] of ofSessions.entries()) {
    const result = moved.results[index];
    const effect = result === 'held' ? result : sessionEffect(result);
    effects.set(webhook, effect);
  }
  const ofRefunds = fresh.flatMap((webhook) => {
    const { subject } = webhook.event;
    return subject.kind === 'refund' ? [{ webhook, ...subject }] : [];
  });
  const refunds = await moveRefunds(connection, ofRefunds, rows);
  for (const [index, { webhook }] of ofRefunds.entries()) {
    const result = refunds[index];
    effects.set(webhook, result === 'held' ? result : refundEffect(result));
  }
  const held = new Set(fresh.filter((one) => effects.get(one) === 'held').map(keyOf));
  const kept = fresh.flatMap((webhook) => {
    const effect = effects.get(webhook) ?? { effect: 'unknown_type', paymentId: undefined };
    return effect === 'held' ? [] : [{ ...webhook, ...effect }];
  });
  await keepWebhooks(connection, kept);
  const reported = refunds.filter((one) => one !== undefined && one !== 'held');
  return { kept, moved, refunds: reported, held };
}

function sessionEffect(result: Exclude<MovedPayments['results'][number], 'held'>): Effect {
  return { effect: result?.effect ?? 'unknown_payment', paymentId: result?.payment.paymentId };
}

function refundEffect(result: ReportedRefund | undefined): Effect {
  return { effect: result?.effect ?? 'unknown_refund', paymentId: result?.refund.paymentId };
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
