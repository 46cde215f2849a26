import type { RowDataPacket } from 'mysql2/promise';
import type { OperatorConfig } from '../config.ts';
import { databaseFailure } from '../could-not-look.ts';
import { openDatabasePool, serverOf } from '../stores.ts';

/** A genuine webhook that could not take effect. Payment tries it again by itself, after ever longer pauses. */
export interface WebhookAside {
  readonly provider: string;
  readonly eventId: string;
  /** When it was set aside. */
  readonly time: Date;
  /** Why it could not take effect when it came. */
  readonly reason: string;
  readonly bytes: number;
  /** How often payment has tried it again. */
  readonly attempts: number;
  readonly nextTime: Date;
}

/** The newest, oldest of them first. @throws CouldNotLook */
export async function listWebhooks(config: OperatorConfig, limit: number): Promise<WebhookAside[]> {
  const newest = await inPayment(config, { write: false }, (rows) =>
    rows(`ORDER BY create_time DESC, event_id LIMIT ${limit}`),
  );
  return newest.reverse();
}

/**
 * Has payment try the oldest ones again now instead of at their next time.
 *
 * @returns the webhooks that are tried again, or would be
 * @throws CouldNotLook
 */
export async function replayWebhooks(
  config: OperatorConfig,
  { limit, dryRun }: { readonly limit: number; readonly dryRun: boolean },
): Promise<WebhookAside[]> {
  return await inPayment(config, { write: !dryRun }, async (rows, change) => {
    const chosen = await rows(`ORDER BY create_time, event_id LIMIT ${limit}`);
    if (dryRun || chosen.length === 0) return chosen;
    const keys = chosen.map(({ provider, eventId }) => [provider, Buffer.from(eventId, 'utf8')]);
    await change(
      `UPDATE webhooks_aside SET next_time = NOW(3), attempts = 0
       WHERE (provider, event_id) IN (?)`,
      keys,
    );
    return chosen;
  });
}

type Rows = (tail: string) => Promise<WebhookAside[]>;
type Change = (sql: string, keys: readonly unknown[]) => Promise<void>;

async function inPayment(
  { mysqlUrls, databasePrefix }: OperatorConfig,
  options: { readonly write: boolean },
  work: (rows: Rows, change: Change) => Promise<WebhookAside[]>,
): Promise<WebhookAside[]> {
  const url = mysqlUrls[0] as string;
  const database = `${databasePrefix}_payment`;
  const pool = openDatabasePool(url, database, options);
  try {
    return await work(
      async (tail) => {
        const [found] = await pool.query<RowDataPacket[]>(
          `SELECT provider, event_id, create_time, failure, LENGTH(body) AS bytes, attempts, next_time
           FROM webhooks_aside ${tail}`,
        );
        return found.map(toWebhook);
      },
      async (sql, keys) => void (await pool.query(sql, [keys])),
    );
  } catch (error) {
    throw databaseFailure(error, serverOf(url), database);
  } finally {
    await pool.end();
  }
}

function toWebhook(row: RowDataPacket): WebhookAside {
  return {
    provider: row.provider,
    eventId: row.event_id.toString('utf8'),
    time: row.create_time,
    reason: row.failure,
    bytes: Number(row.bytes),
    attempts: Number(row.attempts),
    nextTime: row.next_time,
  };
}
