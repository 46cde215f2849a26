import type { Database } from './database.ts';
import type { Amount, Session, SessionStatus } from './session.ts';

interface Row {
  readonly session_id: string;
  readonly payment_id: string;
  readonly order_id: string;
  readonly currency_code: string;
  readonly minor_units: string;
  readonly status: SessionStatus;
  readonly failure: string;
  readonly captured_currency_code: string;
  readonly captured_minor_units: string;
  readonly create_ms: number;
  readonly expire_ms: number;
  readonly settle_ms: number | null;
}

/** The rows of sessions. */
export interface SessionStore {
  insert(session: Session, idempotencyKey: string): void;
  find(sessionId: string): Session | undefined;
  findByKey(idempotencyKey: string): Session | undefined;
  /** Notes the state of a session, what was captured, and why an attempt failed. */
  update(session: Session): void;
  /** Sessions that ran out and are not noted as closed yet, at most `max`. */
  overdue(nowMs: number, max: number): Session[];
  /** Sessions whose debit is decided by now, at most `max`. */
  decidedDebits(nowMs: number, max: number): Session[];
  /** Deletes sessions that ended before, with their refunds, at most `max`; answers how many. */
  deleteEnded(beforeMs: number, max: number): number;
}

export function createSessionStore({ sqlite }: Database): SessionStore {
  const insert = sqlite.prepare(
    `INSERT INTO sessions (session_id, idempotency_key, payment_id, order_id, currency_code, minor_units,
      status, failure, captured_currency_code, captured_minor_units, create_ms, expire_ms)
     VALUES (?, ?, ?, ?, ?, ?, 'open', '', '', '', ?, ?)`,
  );
  const select = 'SELECT * FROM sessions LEFT JOIN debits USING (session_id)';
  const byId = sqlite.prepare(`${select} WHERE session_id = ?`);
  const byKey = sqlite.prepare(`${select} WHERE idempotency_key = ?`);
  const update = sqlite.prepare(
    `UPDATE sessions SET status = ?, failure = ?, captured_currency_code = ?, captured_minor_units = ?
     WHERE session_id = ?`,
  );
  const overdue = sqlite.prepare(
    `${select} WHERE status IN ('open', 'failed') AND settle_ms IS NULL AND expire_ms <= ?
     ORDER BY expire_ms LIMIT ?`,
  );
  const insertDebit = sqlite.prepare(
    'INSERT OR REPLACE INTO debits (session_id, settle_ms) VALUES (?, ?)',
  );
  const deleteDebit = sqlite.prepare('DELETE FROM debits WHERE session_id = ?');
  const decided = sqlite.prepare(`${select} WHERE settle_ms <= ? ORDER BY settle_ms LIMIT ?`);
  const ended = sqlite.prepare(
    'SELECT session_id FROM sessions WHERE expire_ms < ? ORDER BY expire_ms LIMIT ?',
  );
  const deleteRefunds = sqlite.prepare('DELETE FROM refunds WHERE session_id = ?');
  const deleteSession = sqlite.prepare('DELETE FROM sessions WHERE session_id = ?');
  const read = (row: unknown): Session | undefined => (row ? fromRow(row as Row) : undefined);
  return {
    insert({ sessionId, paymentId, orderId, amount, createMs, expireMs }, idempotencyKey) {
      const { currencyCode, minorUnits } = amount;
      const identity = [sessionId, idempotencyKey, paymentId, orderId] as const;
      insert.run(...identity, currencyCode, String(minorUnits), createMs, expireMs);
    },
    find: (sessionId) => read(byId.get(sessionId)),
    findByKey: (idempotencyKey) => read(byKey.get(idempotencyKey)),
    update({ sessionId, status, failure, captured, settleMs }) {
      const { currencyCode = '', minorUnits = '' } = captured ?? {};
      if (status === 'processing') insertDebit.run(sessionId, settleMs ?? 0);
      else deleteDebit.run(sessionId);
      const stored = status === 'processing' ? 'open' : status;
      update.run(stored, failure, currencyCode, String(minorUnits), sessionId);
    },
    overdue: (nowMs, max) => overdue.all(nowMs, max).map((row) => fromRow(row as unknown as Row)),
    decidedDebits: (nowMs, max) =>
      decided.all(nowMs, max).map((row) => fromRow(row as unknown as Row)),
    deleteEnded(beforeMs, max) {
      const rows = ended.all(beforeMs, max);
      for (const { session_id } of rows) {
        deleteRefunds.run(session_id as string);
        deleteDebit.run(session_id as string);
        deleteSession.run(session_id as string);
      }
      return rows.length;
    },
  };
}

function fromRow(row: Row): Session {
  const captured: Amount | undefined =
    row.captured_minor_units === ''
      ? undefined
      : {
          currencyCode: row.captured_currency_code,
          minorUnits: BigInt(row.captured_minor_units),
        };
  return {
    sessionId: row.session_id,
    paymentId: row.payment_id,
    orderId: row.order_id,
    amount: { currencyCode: row.currency_code, minorUnits: BigInt(row.minor_units) },
    status: row.settle_ms === null ? row.status : 'processing',
    settleMs: row.settle_ms ?? undefined,
    failure: row.failure,
    captured,
    createMs: row.create_ms,
    expireMs: row.expire_ms,
  };
}
