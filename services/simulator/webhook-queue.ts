import type { Database } from './database.ts';
import type { KnobPanel } from './knobs.ts';
import { newId } from './new-id.ts';
import { type Refund, refundJson } from './refund.ts';
import { type Session, sessionJson } from './session.ts';

/** One delivery that is to be made. */
export interface Webhook {
  readonly webhookId: number;
  readonly body: string;
  /** Deliveries tried before. */
  readonly attempts: number;
  readonly createMs: number;
}

/** The webhooks that have not been accepted yet, in the store. */
export interface WebhookQueue {
  /** Adds the webhook of what became of a session or refund; to be called in the transaction of it. */
  addSession(session: Session, nowMs: number): void;
  addRefund(refund: Refund, nowMs: number): void;
  /** Takes up to `max` whose time has come; each is then finished or put back. */
  claim(nowMs: number, max: number): Webhook[];
  finish(webhook: Webhook): void;
  putBack(webhook: Webhook, dueMs: number): void;
  /** When the next is due, in milliseconds since 1970; undefined if none waits. */
  nextDueMs(): number | undefined;
  /** How many wait or are under way. */
  count(): number;
}

interface QueueOptions {
  readonly database: Database;
  readonly knobs: KnobPanel;
  readonly pageUrl: () => string;
}

export function createWebhookQueue({ database, knobs, pageUrl }: QueueOptions): WebhookQueue {
  const { sqlite } = database;
  // Whatever a process that died had under way is sent again: at least once.
  sqlite.exec('UPDATE webhooks SET claimed = 0 WHERE claimed = 1');
  const insert = sqlite.prepare('INSERT INTO webhooks (body, create_ms, due_ms) VALUES (?, ?, ?)');
  const claim = sqlite.prepare(
    `UPDATE webhooks SET claimed = 1 WHERE webhook_id IN (
       SELECT webhook_id FROM webhooks WHERE claimed = 0 AND due_ms <= ?
       ORDER BY due_ms, webhook_id LIMIT ?)
     RETURNING webhook_id AS webhookId, body, attempts, create_ms AS createMs`,
  );
  const finish = sqlite.prepare('DELETE FROM webhooks WHERE webhook_id = ?');
  const putBack = sqlite.prepare(
    'UPDATE webhooks SET claimed = 0, attempts = attempts + 1, due_ms = ? WHERE webhook_id = ?',
  );
  const next = sqlite.prepare('SELECT min(due_ms) AS dueMs FROM webhooks WHERE claimed = 0');
  const count = sqlite.prepare('SELECT count(*) AS count FROM webhooks');

  function add(type: string, data: Readonly<Record<string, unknown>>, nowMs: number): void {
    const { duplicates, delayMs, reorderMs, silence } = knobs.now;
    if (silence) return;
    const createTime = new Date(nowMs).toISOString();
    const body = JSON.stringify({ id: newId('evt'), type, createTime, data });
    for (let copy = 0; copy < duplicates; copy += 1) {
      const dueMs = nowMs + delayMs + Math.floor(Math.random() * reorderMs);
      insert.run(body, nowMs, dueMs);
    }
  }

  return {
    addSession(session, nowMs) {
      add(`session.${session.status}`, { session: sessionJson(session, pageUrl()) }, nowMs);
    },
    addRefund(refund, nowMs) {
      add(`refund.${refund.status}`, { refund: refundJson(refund) }, nowMs);
    },
    claim: (nowMs, max) => claim.all(nowMs, max) as unknown as Webhook[],
    finish: ({ webhookId }) => void finish.run(webhookId),
    putBack: ({ webhookId }, dueMs) => void putBack.run(dueMs, webhookId),
    nextDueMs: () => (next.get()?.dueMs ?? undefined) as number | undefined,
    count: () => Number(count.get()?.count),
  };
}
