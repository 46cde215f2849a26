import type { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { type Backoff, dueSql, nextTimeSql } from './backoff.ts';
import type { Payment } from './payment.ts';
import { type PaymentDatabase, query, transaction } from './payment-database.ts';
import { type PaymentRow, paymentColumns, toPayment } from './payment-store.ts';
import type { Refund } from './refund.ts';
import { type RefundRow, refundColumns, toRefund } from './refund-store.ts';

export interface Claim {
  /** How long the claimed rows are left to this process, longer with each attempt. */
  readonly backoff: Backoff;
  readonly max: number;
}

/** A payment that is left to this process, and when it was, by MySQL's clock. */
export type ClaimedPayment = Payment & { readonly claimTime: Date };

/**
 * Claims payments whose time has come: their next time is moved and committed before anything remote is done, so that
 * no other process takes them meanwhile, and one does if this one dies.
 */
export async function claimPayments(
  database: PaymentDatabase,
  { settlement, backoff, max }: Claim & { readonly settlement: PaymentSettlement },
  deadline: Deadline,
): Promise<ClaimedPayment[]> {
  const claimed = await transaction(database, { deadline }, async (connection) => {
    const [rows] = await connection.query<(PaymentRow & { readonly claim_time: Date })[]>(
      `SELECT ${paymentColumns}, NOW(3) AS claim_time FROM payments
       WHERE settlement = ? AND ${dueSql(backoff.maxMs)} ORDER BY next_time LIMIT ? FOR UPDATE SKIP LOCKED`,
      [settlement, max],
    );
    if (rows.length === 0) return [];
    await connection.query(
      `UPDATE payments SET next_time = ${nextTimeSql(backoff)}, attempts = attempts + 1 WHERE payment_id IN (?)`,
      [rows.map((row) => row.payment_id)],
    );
    return rows.map((row) => ({ ...toPayment(row), claimTime: row.claim_time }));
  });
  if (failpoints.on && claimed.length > 0) await failpoints.hit('payment.after_claim_payments');
  return claimed;
}

/** Claims refunds for `leaseMs`; a failed attempt is put off by `postponeRefund`, for `waitMaxMs` at most. */
export async function claimRefunds(
  database: PaymentDatabase,
  {
    leaseMs,
    waitMaxMs,
    max,
  }: { readonly leaseMs: number; readonly waitMaxMs: number; readonly max: number },
  deadline: Deadline,
): Promise<Refund[]> {
  const claimed = await transaction(database, { deadline }, async (connection) => {
    const [rows] = await connection.query<RefundRow[]>(
      `SELECT ${refundColumns} FROM refunds WHERE ${dueSql(Math.max(leaseMs, waitMaxMs))}
       ORDER BY next_time LIMIT ? FOR UPDATE SKIP LOCKED`,
      [max],
    );
    if (rows.length === 0) return [];
    await connection.query(
      `UPDATE refunds SET next_time = NOW(3) + INTERVAL ? * 1000 MICROSECOND, attempts = attempts + 1
       WHERE refund_id IN (?)`,
      [leaseMs, rows.map((row) => row.refund_id)],
    );
    return rows.map(toRefund);
  });
  if (failpoints.on && claimed.length > 0) await failpoints.hit('payment.after_claim_refunds');
  return claimed;
}

/** Puts the next attempt at a claimed refund off, longer with each. */
export async function postponeRefund(
  database: PaymentDatabase,
  refundId: bigint,
  backoff: Backoff,
  deadline: Deadline,
): Promise<void> {
  const statement = `UPDATE refunds SET next_time = ${nextTimeSql(backoff)}
    WHERE refund_id = ? AND next_time IS NOT NULL`;
  await query(database, statement, [refundId], { deadline });
}
