import type { RowDataPacket } from 'mysql2/promise';
import { type RefundStatus, RefundStatus as Status } from '../../gen/sluice/payment/v1/payment.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import type { Payment } from './payment.ts';
import { type PaymentDatabase, query } from './payment-database.ts';
import { nextId } from './payment-id.ts';
import { existing } from './payment-store.ts';
import { type Refund, surplusRequestId, Told } from './refund.ts';

/** A refund before it is stored, due at once. */
export type NewRefund = Pick<
  Refund,
  'paymentId' | 'requestId' | 'amount' | 'whole' | 'reason' | 'restock'
>;

const columns = `refund_id, payment_id, request_id, amount_minor, currency, whole, status, reason, restock,
  provider_reference, failure, told, create_time, update_time`;

/** The refunds of payments, oldest first. */
export async function readRefunds(
  database: PaymentDatabase,
  paymentIds: readonly bigint[],
  deadline: Deadline,
): Promise<Refund[]> {
  if (paymentIds.length === 0) return [];
  const rows = await query<RefundRow[]>(database, ofPayments, [paymentIds], { deadline });
  return rows.map(toRefund);
}

/** The refunds of a payment whose row the transaction has locked, oldest first. */
export async function refundsOfLocked(
  connection: PoolConnection,
  paymentId: bigint,
): Promise<Refund[]> {
  const [rows] = await connection.query<RefundRow[]>(ofPayments, [[paymentId]]);
  return rows.map(toRefund);
}

export async function lockRefunds(
  connection: PoolConnection,
  refundIds: readonly bigint[],
): Promise<Map<bigint, Refund>> {
  if (refundIds.length === 0) return new Map();
  const [rows] = await connection.query<RefundRow[]>(
    `SELECT ${columns} FROM refunds WHERE refund_id IN (?) ORDER BY refund_id FOR UPDATE`,
    [refundIds],
  );
  return new Map(rows.map(toRefund).map((refund) => [refund.refundId, refund]));
}

/** Locks those refunds that nobody else holds; `held` are the ids of the others. */
export async function lockFreeRefunds(
  connection: PoolConnection,
  refundIds: readonly bigint[],
): Promise<{ free: Map<bigint, Refund>; held: Set<bigint> }> {
  if (refundIds.length === 0) return { free: new Map(), held: new Set() };
  const [rows] = await connection.query<RefundRow[]>(
    `SELECT ${columns} FROM refunds WHERE refund_id IN (?) ORDER BY refund_id FOR UPDATE SKIP LOCKED`,
    [refundIds],
  );
  const free = new Map(rows.map(toRefund).map((refund) => [refund.refundId, refund]));
  const missing = refundIds.filter((refundId) => !free.has(refundId));
  return { free, held: await existing(connection, 'refunds', 'refund_id', missing) };
}

/** Notes refunds down, due at once. @throws the driver's error 1062 if one was noted down before */
export async function insertRefunds(
  connection: PoolConnection,
  refunds: readonly NewRefund[],
): Promise<bigint[]> {
  if (refunds.length === 0) return [];
  const ids = refunds.map(() => nextId());
  const row = `(?, ?, ?, ?, ?, ?, ${Status.REFUND_STATUS_PENDING}, ?, ?, NOW(3), NOW(3), NOW(3))`;
  await connection.query(
    `INSERT INTO refunds (refund_id, payment_id, request_id, amount_minor, currency, whole, status, reason, restock,
       next_time, create_time, update_time) VALUES ${refunds.map(() => row).join(', ')}`,
    refunds.flatMap((refund, index) => [
      ...[ids[index], refund.paymentId, Buffer.from(refund.requestId, 'latin1')],
      ...[refund.amount.minorUnits, refund.amount.currencyCode, refund.whole ? 1 : 0],
      ...[refund.reason, refund.restock ? 1 : 0],
    ]),
  );
  return ids;
}

/** The whole of what was captured goes back; the unique key makes it happen once for a payment. */
export function surplusRefund({ paymentId, captured, amount }: Payment, reason: string): NewRefund {
  const back = captured ?? amount;
  const requestId = surplusRequestId;
  return { paymentId, requestId, amount: back, whole: true, reason, restock: false };
}

/** When a refund wants attention again. */
export type NextTime = 'now' | 'never' | 'unchanged';

/** Stores the new states of refunds that the transaction has locked, each once, and when they want attention again. */
export async function writeRefunds(
  connection: PoolConnection,
  written: readonly { readonly refund: Refund; readonly nextTime: NextTime }[],
): Promise<void> {
  if (written.length === 0) return;
  const row = `SELECT ? AS refund_id, ? AS status, ? AS reference, ? AS failure, ? AS told, ? AS is_now, ? AS is_never`;
  const values = written.flatMap(({ refund, nextTime }) => [
    ...[refund.refundId, refund.status],
    refund.reference === undefined ? null : Buffer.from(refund.reference, 'utf8'),
    [...refund.failure].slice(0, failureCharactersMax).join(''),
    ...[refund.told, nextTime === 'now' ? 1 : 0, nextTime === 'never' ? 1 : 0],
  ]);
  await connection.query(
    `UPDATE refunds r JOIN (${written.map(() => row).join(' UNION ALL ')}) n ON n.refund_id = r.refund_id
     SET r.status = n.status, r.provider_reference = n.reference, r.failure = n.failure, r.told = n.told,
       r.attempts = IF(n.is_now, 0, r.attempts), r.update_time = NOW(3),
       r.next_time = CASE WHEN n.is_now THEN NOW(3) WHEN n.is_never THEN NULL ELSE r.next_time END`,
    values,
  );
}

/** Committed before a refund goes out, so that a provider that may have got it is asked first from then on. */
export async function markSent(
  database: PaymentDatabase,
  refundId: bigint,
  deadline: Deadline,
): Promise<void> {
  const statement = `UPDATE refunds SET status = ${Status.REFUND_STATUS_SENT}, update_time = NOW(3)
    WHERE refund_id = ? AND status = ${Status.REFUND_STATUS_PENDING}`;
  await query(database, statement, [refundId], { deadline });
}

/** Notes how much of a refund order knows; with all of it told, the refund is done. */
export async function writeTold(
  database: PaymentDatabase,
  { refundId, status }: Refund,
  told: Told,
  deadline: Deadline,
): Promise<void> {
  const next = told === Told.all ? 'NULL' : 'next_time';
  await query(
    database,
    `UPDATE refunds SET told = ?, next_time = ${next} WHERE refund_id = ? AND status = ? AND told <= ?`,
    [told, refundId, status, told],
    { deadline },
  );
}

/** Characters of a provider's word that are kept. */
const failureCharactersMax = 200;
const ofPayments = `SELECT ${columns} FROM refunds WHERE payment_id IN (?) ORDER BY refund_id`;

export interface RefundRow extends RowDataPacket {
  readonly refund_id: string;
  readonly payment_id: string;
  readonly request_id: Buffer;
  readonly amount_minor: string;
  readonly currency: string;
  readonly whole: number;
  readonly status: RefundStatus;
  readonly reason: string;
  readonly restock: number;
  readonly provider_reference: Buffer | null;
  readonly failure: string;
  readonly told: Told;
  readonly create_time: Date;
  readonly update_time: Date;
}

/** The columns that `toRefund` reads. */
export const refundColumns = columns;

export function toRefund(row: RefundRow): Refund {
  return {
    refundId: BigInt(row.refund_id),
    paymentId: BigInt(row.payment_id),
    requestId: row.request_id.toString('latin1'),
    amount: { currencyCode: row.currency, minorUnits: BigInt(row.amount_minor) },
    whole: row.whole === 1,
    status: row.status,
    reason: row.reason,
    restock: row.restock === 1,
    reference: row.provider_reference?.toString('utf8'),
    failure: row.failure,
    told: row.told,
    createTime: row.create_time,
    updateTime: row.update_time,
  };
}
