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
  /** Deletes sessions that ended before, with their refunds, at most `max`; answers how many. */
  deleteEnded(beforeMs: number, max: number): number;
}

export function createSessionStore({ sqlite }: Database): SessionStore {
  const insert = sqlite.prepare(
    `INSERT INTO sessions (session_id, idempotency_key, payment_id, order_id, currency_code, minor_units,
      status, failure, captured_currency_code, captured_minor_units, create_ms, expire_ms)
     VALUES (?, ?, ?, ?, ?, ?, 'open', '', '', '', ?, ?)`,
  );
  const byId = sqlite.prepare('SELECT * FROM sessions WHERE session_id = ?');
  const byKey = sqlite.prepare('SELECT * FROM sessions WHERE idempotency_key = ?');
  const update = sqlite.prepare(
    `UPDATE sessions SET status = ?, failure = ?, captured_currency_code = ?, captured_minor_units = ?
     WHERE session_id = ?`,
  );
  const overdue = sqlite.prepare(
    `SELECT * FROM sessions WHERE status IN ('open', 'failed') AND expire_ms <= ?
     ORDER BY expire_ms LIMIT ?`,
  );
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
    update({ sessionId, status, failure, captured }) {
      const { currencyCode = '', minorUnits = '' } = captured ?? {};
      update.run(status, failure, currencyCode, String(minorUnits), sessionId);
    },
    overdue: (nowMs, max) => overdue.all(nowMs, max).map((row) => fromRow(row as unknown as Row)),
    deleteEnded(beforeMs, max) {
      const rows = ended.all(beforeMs, max);
      for (const { session_id } of rows) {
        deleteRefunds.run(session_id as string);
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
    status: row.status,
    failure: row.failure,
    captured,
    createMs: row.create_ms,
    expireMs: row.expire_ms,
  };
}
