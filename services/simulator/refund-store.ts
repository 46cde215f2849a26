import type { Database } from './database.ts';
import type { Refund, RefundStatus } from './refund.ts';

interface Row {
  readonly reference: string;
  readonly session_id: string;
  readonly refund_id: string;
  readonly currency_code: string;
  readonly minor_units: string;
  readonly status: RefundStatus;
  readonly failure: string;
  readonly create_ms: number;
  readonly settle_ms: number;
}

/** The rows of refunds. */
export interface RefundStore {
  insert(refund: Refund, idempotencyKey: string): void;
  findByKey(idempotencyKey: string): Refund | undefined;
  ofSession(sessionId: string): Refund[];
  settle(refund: Refund): void;
  /** Pending refunds whose time has come, at most `max`. */
  due(nowMs: number, max: number): Refund[];
}

export function createRefundStore({ sqlite }: Database): RefundStore {
  const insert = sqlite.prepare(
    `INSERT INTO refunds (reference, idempotency_key, session_id, refund_id, currency_code, minor_units,
      status, failure, create_ms, settle_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  const byKey = sqlite.prepare('SELECT * FROM refunds WHERE idempotency_key = ?');
  const ofSession = sqlite.prepare('SELECT * FROM refunds WHERE session_id = ?');
  const settle = sqlite.prepare('UPDATE refunds SET status = ?, failure = ? WHERE reference = ?');
  const due = sqlite.prepare(
    `SELECT * FROM refunds WHERE status = 'pending' AND settle_ms <= ? ORDER BY settle_ms LIMIT ?`,
  );
  const readAll = (rows: unknown[]): Refund[] => rows.map((row) => fromRow(row as Row));
  return {
    insert({ reference, sessionId, refundId, amount, ...refund }, idempotencyKey) {
      const { currencyCode, minorUnits } = amount;
      const { status, failure, createMs, settleMs } = refund;
      const identity = [reference, idempotencyKey, sessionId, refundId] as const;
      const money = [currencyCode, String(minorUnits)] as const;
      insert.run(...identity, ...money, status, failure, createMs, settleMs);
    },
    findByKey: (idempotencyKey) => readAll([byKey.get(idempotencyKey)].filter(Boolean))[0],
    ofSession: (sessionId) => readAll(ofSession.all(sessionId)),
    settle: ({ reference, status, failure }) => void settle.run(status, failure, reference),
    due: (nowMs, max) => readAll(due.all(nowMs, max)),
  };
}

function fromRow(row: Row): Refund {
  return {
    reference: row.reference,
    sessionId: row.session_id,
    refundId: row.refund_id,
    amount: { currencyCode: row.currency_code, minorUnits: BigInt(row.minor_units) },
    status: row.status,
    failure: row.failure,
    createMs: row.create_ms,
    settleMs: row.settle_ms,
  };
}
