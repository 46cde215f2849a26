import type { RowDataPacket } from 'mysql2/promise';
import type { PoolConnection } from '../runtime/mysql.ts';
import type { ProviderEvent } from './provider.ts';

/** A webhook whose signature is genuine, as it came. */
export interface SignedWebhook {
  readonly provider: string;
  readonly event: ProviderEvent;
  readonly body: Buffer;
}

/** A webhook with what it came to. */
export interface KeptWebhook extends SignedWebhook {
  readonly effect: string;
  readonly paymentId: bigint | undefined;
}

/** Characters of a provider's word for a type that are kept. */
const typeCharactersMax = 100;

/** One key for each event of each provider. */
export function keyOf({ provider, event }: SignedWebhook): string {
  return `${provider}/${event.eventId}`;
}

/** The keys of those webhooks that were taken in before. */
export async function readKnown(
  connection: PoolConnection,
  webhooks: readonly SignedWebhook[],
): Promise<Set<string>> {
  const known = new Set<string>();
  for (const [provider, group] of Map.groupBy(webhooks, (webhook) => webhook.provider)) {
    const ids = group.map(({ event }) => Buffer.from(event.eventId, 'utf8'));
    const [rows] = await connection.query<RowDataPacket[]>(
      'SELECT event_id FROM webhook_inbox WHERE provider = ? AND event_id IN (?)',
      [provider, ids],
    );
    for (const row of rows) known.add(`${provider}/${(row.event_id as Buffer).toString('utf8')}`);
  }
  return known;
}

/**
 * Keeps webhooks in the transaction of their effect; in the order of their keys, so that two that keep the same ones wait
 * for each other instead of deadlocking.
 *
 * @throws the driver's error 1062 if another process kept one of them meanwhile
 */
export async function keepWebhooks(
  connection: PoolConnection,
  webhooks: readonly KeptWebhook[],
): Promise<void> {
  if (webhooks.length === 0) return;
  const sorted = webhooks.toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
  const row = '(?, ?, ?, ?, ?, ?, NOW(3))';
  await connection.query(
    `INSERT INTO webhook_inbox (provider, event_id, event_type, payment_id, effect, body, create_time)
     VALUES ${sorted.map(() => row).join(', ')}`,
    sorted.flatMap(({ provider, event, paymentId, effect, body }) => [
      ...[provider, Buffer.from(event.eventId, 'utf8')],
      event.type.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, typeCharactersMax),
      ...[paymentId ?? null, effect, body],
    ]),
  );
}
