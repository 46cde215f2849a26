import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RowDataPacket } from 'mysql2';
import { OutboxBatch } from '../../gen/sluice/event/v1/outbox.ts';
import { Deadline } from './deadline.ts';
import type { EventMessage, EventPublisher } from './event-publisher.ts';
import { failpoints } from './failpoints.ts';
import type { Log } from './log.ts';
import { startLoop } from './loop.ts';
import { type Pool, query, transaction } from './mysql.ts';

/** Rows claimed at once; a row holds the events of up to 500 orders. */
const claimRowsMax = 32;
/**
 * Between two rounds rows gather, because each round costs two durable commits and up to one request
 * for each partition, whatever it carries. The first event after a rest goes at once.
 */
const gatherMs = 200;
/** How long a claim lasts; a relay that died leaves its rows to the next one after it. */
const claimMs = 15_000;
/** Less than the claim, so that two relays rarely publish the same row. */
const publishMs = 10_000;
const idleMs = 200;
const databaseMs = 3_000;

export interface OutboxRelay {
  /** Looks for rows now; called after a commit that wrote one. */
  wake(): void;
  stop(): Promise<void>;
}

export interface OutboxRelayOptions {
  readonly name: string;
  readonly pool: Pool;
  readonly topic: string;
  readonly publisher: EventPublisher;
  readonly log: Log;
}

/**
 * Publishes what committed transactions left in `outbox`, at least once: claims the oldest rows in
 * a transaction of its own, publishes them, deletes them. Nothing remote happens inside a
 * transaction, and a relay that dies in between only causes a repetition.
 */
export function startOutboxRelay(options: OutboxRelayOptions): OutboxRelay {
  return startLoop({
    name: `relay.${options.name}`,
    intervalMs: idleMs,
    log: options.log,
    async run(signal) {
      while (!signal.aborted && (await relayOnce(options)) > 0) await gather(signal);
    },
  });
}

async function relayOnce({ pool, topic, publisher }: OutboxRelayOptions): Promise<number> {
  const owner = randomUUID();
  const claimed = await claim(pool, owner);
  if (claimed.length === 0) return 0;
  const ids = claimed.map((row) => row.id as string);
  try {
    if (failpoints.on) await failpoints.hit('relay.before_publish', { ids });
    const messages = claimed.flatMap(messagesOf);
    await publisher.publish(topic, messages, Deadline.after(publishMs));
  } catch (error) {
    await giveBack(pool, owner).catch(() => undefined);
    throw error;
  }
  if (failpoints.on) await failpoints.hit('relay.after_publish', { ids });
  await query(pool, 'DELETE FROM outbox WHERE id IN (?) AND owner = ?', [ids, owner], {
    deadline: Deadline.after(databaseMs),
  });
  if (failpoints.on) await failpoints.hit('relay.after_delete', { ids });
  return claimed.length;
}

async function gather(signal: AbortSignal): Promise<void> {
  await sleep(gatherMs, undefined, { signal }).catch(() => undefined);
}

async function claim(pool: Pool, owner: string): Promise<RowDataPacket[]> {
  const deadline = Deadline.after(databaseMs);
  return await transaction(pool, { deadline }, async (connection) => {
    // Rows that other relays or open transactions hold are passed over instead of waited for.
    const [rows] = await connection.query<RowDataPacket[]>(
      `SELECT id, payload, create_time FROM outbox WHERE owned_until IS NULL OR owned_until < NOW(3)
       ORDER BY id LIMIT ${claimRowsMax} FOR UPDATE SKIP LOCKED`,
    );
    if (rows.length === 0) return rows;
    await connection.query(
      `UPDATE outbox SET owner = ?, owned_until = NOW(3) + INTERVAL ${claimMs * 1_000} MICROSECOND
       WHERE id IN (?)`,
      [owner, rows.map((row) => row.id)],
    );
    return rows;
  });
}

/** After a failed publication the next round need not wait for the claim to end. */
async function giveBack(pool: Pool, owner: string): Promise<void> {
  const sql = 'UPDATE outbox SET owner = NULL, owned_until = NULL WHERE owner = ?';
  await query(pool, sql, [owner], { deadline: Deadline.after(databaseMs) });
}

/**
 * The time of an event is that of its row, so that a place in Kafka tells until when orders were
 * followed, also behind an outage. Kafka refuses times of the future; a clock may be ahead.
 */
function messagesOf(row: RowDataPacket): EventMessage[] {
  const time = new Date(Math.min((row.create_time as Date).getTime(), Date.now()));
  const { messages } = OutboxBatch.decode(row.payload as Buffer);
  return messages.map(({ key, value }) => ({ key: String(key), value, time }));
}
