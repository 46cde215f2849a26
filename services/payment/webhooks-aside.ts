import type { RowDataPacket } from 'mysql2/promise';
import type { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { mysqlErrno } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { type Backoff, dueSql, nextTimeSql } from './backoff.ts';
import { type PaymentDatabase, query, transaction } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import type { SignedWebhook } from './webhook-inbox.ts';

// Webhooks that are genuine and cannot take effect. They are kept and answered as taken in, so that their provider does not
// deliver them among the others for days, and are tried again by us.

/** A webhook that was set aside, claimed to be tried again. */
export interface WebhookAside {
  readonly provider: string;
  readonly eventId: Buffer;
  readonly body: Buffer;
}

/** More than these, and something is wrong with all of them: then their provider delivers them again instead. */
const asideMax = 10_000;
const failureCharactersMax = 200;

/**
 * Errors of the server about what is to be stored, whatever the moment: no value (1048), a key that another row has (1062,
 * after it was tried several times), out of range (1264, 1690), not of the type (1292, 1366), too long (1406), against a
 * constraint (1452, 3819, 4025).
 */
const dataErrnos = new Set([1048, 1062, 1264, 1292, 1366, 1406, 1452, 1690, 3819, 4025]);

/** Whether a webhook failed for what it says, and not for the moment it came at. */
export function cannotTakeEffect(error: unknown): boolean {
  if (error instanceof TypeError || error instanceof RangeError) return true;
  return dataErrnos.has(mysqlErrno(error) ?? 0);
}

/** Keeps a webhook to be tried again. @throws Refusal OVERLOADED if there are too many of them; as `query` */
export async function setAside(
  {
    database,
    metrics,
    log,
  }: {
    readonly database: PaymentDatabase;
    readonly metrics: Pick<PaymentMetrics, 'webhooks'>;
    readonly log: Log;
  },
  { provider, event, body }: SignedWebhook,
  failure: unknown,
  deadline: Deadline,
): Promise<void> {
  const text = failure instanceof Error ? failure.message : String(failure);
  const eventId = Buffer.from(event.eventId, 'utf8');
  const [count] = await query<RowDataPacket[]>(
    database,
    'SELECT COUNT(*) AS aside FROM (SELECT 1 FROM webhooks_aside LIMIT ?) kept',
    [asideMax],
    { deadline },
  );
  if (Number(count?.aside) >= asideMax) {
    throw new Refusal('OVERLOADED', 'Too many webhooks were set aside', { cause: failure });
  }
  await query(
    database,
    `INSERT INTO webhooks_aside (provider, event_id, body, failure, next_time, create_time)
     VALUES (?, ?, ?, ?, NOW(3), NOW(3)) ON DUPLICATE KEY UPDATE failure = VALUES(failure)`,
    [provider, eventId, body, [...text].slice(0, failureCharactersMax).join('')],
    { deadline },
  );
  metrics.webhooks.inc({ effect: 'set_aside' });
  log.error(
    { err: failure, eventId: event.eventId },
    'a webhook cannot take effect; it was set aside and is tried again, and an operator must look',
  );
}

/** Claims webhooks whose time has come; their next time is longer off with each attempt. */
export async function claimAside(
  database: PaymentDatabase,
  { backoff, max }: { readonly backoff: Backoff; readonly max: number },
  deadline: Deadline,
): Promise<WebhookAside[]> {
  return await transaction(database, { deadline }, async (connection) => {
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT provider, event_id, body FROM webhooks_aside WHERE ${dueSql(backoff.maxMs)}
       ORDER BY next_time LIMIT ? FOR UPDATE SKIP LOCKED`,
      [max],
    );
    const claimed = rows.map(
      (row): WebhookAside => ({ provider: row.provider, eventId: row.event_id, body: row.body }),
    );
    for (const { provider, eventId } of claimed) {
      await connection.query(
        `UPDATE webhooks_aside SET next_time = ${nextTimeSql(backoff)}, attempts = attempts + 1
         WHERE provider = ? AND event_id = ?`,
        [provider, eventId],
      );
    }
    return claimed;
  });
}
