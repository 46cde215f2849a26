import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise';
import {
  PaymentSettlement,
  type PaymentStatus,
  PaymentStatus as Status,
} from '../../gen/sluice/payment/v1/payment.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import type { Payment } from './payment.ts';
import { type PaymentDatabase, query } from './payment-database.ts';
import type { Session } from './provider.ts';

/** A payment before it is stored; MySQL's clock dates it. */
export type NewPayment = Pick<
  Payment,
  'paymentId' | 'orderId' | 'userId' | 'requestId' | 'provider' | 'amount' | 'expireTime'
>;

const columns = `payment_id, order_id, user_id, request_id, provider, provider_reference, payment_url,
  status, settlement, amount_minor, currency, captured_minor, captured_currency, failure, session_over,
  expire_time, create_time, update_time`;

/** The payment, or undefined. */
export async function readPayment(
  database: PaymentDatabase,
  paymentId: bigint,
  deadline: Deadline,
): Promise<Payment | undefined> {
  const statement = `SELECT ${columns} FROM payments WHERE payment_id = ?`;
  const rows = await query<PaymentRow[]>(database, statement, [paymentId], { deadline });
  return rows[0] && toPayment(rows[0]);
}

/** The payments of an order, oldest first. */
export async function readPaymentsOfOrder(
  database: PaymentDatabase,
  orderId: bigint,
  deadline: Deadline,
): Promise<Payment[]> {
  return await readPaymentsOfOrders(database, [orderId], deadline);
}

/** The payments of orders, oldest first. */
export async function readPaymentsOfOrders(
  database: PaymentDatabase,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<Payment[]> {
  const statement = `SELECT ${columns} FROM payments WHERE order_id IN (?) ORDER BY payment_id`;
  const rows = await query<PaymentRow[]>(database, statement, [orderIds], { deadline });
  return rows.map(toPayment);
}

/** Locks payments in ascending order, as every writer of several does; waits for those that others hold. */
export async function lockPayments(
  connection: PoolConnection,
  paymentIds: readonly bigint[],
): Promise<Map<bigint, Payment>> {
  if (paymentIds.length === 0) return new Map();
  const [rows] = await connection.query<PaymentRow[]>(
    `SELECT ${columns} FROM payments WHERE payment_id IN (?) ORDER BY payment_id FOR UPDATE`,
    [paymentIds],
  );
  return new Map(rows.map(toPayment).map((payment) => [payment.paymentId, payment]));
}

/** Locks those payments that nobody else holds; `held` are the ids of the others. */
export async function lockFreePayments(
  connection: PoolConnection,
  paymentIds: readonly bigint[],
): Promise<{ free: Map<bigint, Payment>; held: Set<bigint> }> {
  if (paymentIds.length === 0) return { free: new Map(), held: new Set() };
  const [rows] = await connection.query<PaymentRow[]>(
    `SELECT ${columns} FROM payments WHERE payment_id IN (?) ORDER BY payment_id FOR UPDATE SKIP LOCKED`,
    [paymentIds],
  );
  const free = new Map(rows.map(toPayment).map((payment) => [payment.paymentId, payment]));
  const missing = paymentIds.filter((paymentId) => !free.has(paymentId));
  return { free, held: await existing(connection, 'payments', 'payment_id', missing) };
}

/** Those ids that a row exists of, held or not. */
export async function existing(
  connection: PoolConnection,
  table: 'payments' | 'refunds',
  column: 'payment_id' | 'refund_id',
  ids: readonly bigint[],
): Promise<Set<bigint>> {
  if (ids.length === 0) return new Set();
  const statement = `SELECT ${column} AS id FROM ${table} WHERE ${column} IN (?)`;
  const [rows] = await connection.query<RowDataPacket[]>(statement, [ids]);
  return new Set(rows.map((row) => BigInt(row.id)));
}

/** What speaks for or against one more payment of an order. */
export interface Payable {
  readonly attempts: number;
  /** A payment pays the order, or order is being asked whether it does. */
  readonly isPaid: boolean;
  readonly isClosed: boolean;
}

export async function readPayable(
  database: PaymentDatabase,
  orderId: bigint,
  deadline: Deadline,
): Promise<Payable> {
  const params = [orderId, orderId];
  const [row] = await query<RowDataPacket[]>(database, payableSql, params, { deadline });
  const { attempts, paying, closed } = row as RowDataPacket;
  return { attempts: Number(attempts), isPaid: Number(paying) > 0, isClosed: Number(closed) > 0 };
}

/**
 * Stores a new payment, unless its order is paid or closed or was tried `attemptsMax` times; whether it did. One
 * statement, because buyers wait for it.
 *
 * @throws the driver's error 1062 if the order has a payment with this request id
 */
export async function insertPayment(
  database: PaymentDatabase,
  payment: NewPayment,
  { firstPollMs, attemptsMax }: { readonly firstPollMs: number; readonly attemptsMax: number },
  deadline: Deadline,
): Promise<boolean> {
  const { paymentId, orderId, userId, requestId, provider, amount, expireTime } = payment;
  const { affectedRows } = await query<ResultSetHeader>(
    database,
    `INSERT INTO payments (payment_id, order_id, user_id, request_id, provider, status, amount_minor, currency,
       expire_time, next_time, create_time, update_time)
     SELECT ?, ?, ?, ?, ?, ${Status.PAYMENT_STATUS_PENDING}, ?, ?, ?,
       NOW(3) + INTERVAL ? * 1000 MICROSECOND, NOW(3), NOW(3)
     FROM (${payableSql}) payable WHERE attempts < ? AND paying = 0 AND closed = 0`,
    [
      ...[paymentId, orderId, userId, Buffer.from(requestId, 'latin1'), provider],
      ...[amount.minorUnits, amount.currencyCode, expireTime, firstPollMs],
      ...[orderId, orderId, attemptsMax],
    ],
    { deadline },
  );
  return affectedRows === 1;
}

const paying = [
  PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING,
  PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED,
];
const payableSql = `SELECT COUNT(*) AS attempts, COALESCE(SUM(settlement IN (${paying})), 0) AS paying,
  (SELECT COUNT(*) FROM closed_orders WHERE order_id = ?) AS closed FROM payments WHERE order_id = ?`;

/** Notes where the buyer pays, unless that is known or the payment is over; whether it did. */
export async function storeSession(
  database: PaymentDatabase,
  paymentId: bigint,
  { reference, paymentUrl }: Session,
  deadline: Deadline,
): Promise<boolean> {
  const bytes = Buffer.from(reference, 'utf8');
  const { affectedRows } = await query<ResultSetHeader>(
    database,
    `UPDATE payments SET provider_reference = ?, payment_url = ?
     WHERE payment_id = ? AND status IN (${Status.PAYMENT_STATUS_PENDING}, ${Status.PAYMENT_STATUS_FAILED})
       AND session_over = 0 AND payment_url = ''
       AND (provider_reference IS NULL OR provider_reference = ?)`,
    [bytes, paymentUrl, paymentId, bytes],
    { deadline },
  );
  return affectedRows === 1;
}

/**
 * Stores the new states of payments that the transaction has locked. One whose order must be told is due for that
 * `tellAfterMs` later, because its process tells it at once; one whose session is over is polled no more.
 */
export async function writePayments(
  connection: PoolConnection,
  payments: readonly Payment[],
  tellAfterMs: number,
): Promise<void> {
  if (payments.length === 0) return;
  const row = `SELECT ? AS payment_id, ? AS status, ? AS settlement, ? AS reference, ? AS captured_minor,
    ? AS captured_currency, ? AS failure, ? AS session_over`;
  const values = payments.flatMap((payment) => [
    ...[payment.paymentId, payment.status, payment.settlement],
    payment.reference === undefined ? null : Buffer.from(payment.reference, 'utf8'),
    ...[payment.captured?.minorUnits ?? null, payment.captured?.currencyCode ?? null],
    ...[payment.failure, payment.sessionOver ? 1 : 0],
  ]);
  const awaiting = `n.settlement = ${PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING}`;
  await connection.query<ResultSetHeader>(
    `UPDATE payments p JOIN (${payments.map(() => row).join(' UNION ALL ')}) n ON n.payment_id = p.payment_id
     SET p.status = n.status, p.settlement = n.settlement, p.provider_reference = n.reference,
       p.captured_minor = n.captured_minor, p.captured_currency = n.captured_currency, p.failure = n.failure,
       p.session_over = n.session_over, p.attempts = IF(n.session_over, 0, p.attempts), p.update_time = NOW(3),
       p.next_time = CASE WHEN ${awaiting} THEN NOW(3) + INTERVAL ${tellAfterMs} * 1000 MICROSECOND
         WHEN n.session_over THEN NULL ELSE p.next_time END`,
    values,
  );
}

/** The payment, and whether its order is being closed, or is paid: then no session may be opened for it. */
export async function readFenced(
  database: PaymentDatabase,
  paymentId: bigint,
  deadline: Deadline,
): Promise<
  { readonly payment: Payment; readonly isClosed: boolean; readonly isPaid: boolean } | undefined
> {
  const statement = `SELECT ${columns},
      EXISTS (SELECT 1 FROM closed_orders c WHERE c.order_id = p.order_id) AS closed,
      EXISTS (SELECT 1 FROM payments o WHERE o.order_id = p.order_id AND o.settlement IN (${paying})) AS paid
    FROM payments p WHERE payment_id = ?`;
  const rows = await query<(PaymentRow & { closed: number; paid: number })[]>(
    database,
    statement,
    [paymentId],
    { deadline },
  );
  const [row] = rows;
  if (row === undefined) return undefined;
  return {
    payment: toPayment(row),
    isClosed: Number(row.closed) > 0,
    isPaid: Number(row.paid) > 0,
  };
}

/** From its commit on, payments of the orders that have not opened their sessions yet will not. */
export async function closeOrders(
  database: PaymentDatabase,
  orderIds: readonly bigint[],
  deadline: Deadline,
): Promise<void> {
  const rows = orderIds.map(() => '(?, NOW(3))').join(', ');
  const statement = `INSERT INTO closed_orders (order_id, create_time) VALUES ${rows}
    ON DUPLICATE KEY UPDATE order_id = VALUES(order_id)`;
  await query(database, statement, orderIds, { deadline });
}

export interface PaymentRow extends RowDataPacket {
  readonly payment_id: string;
  readonly order_id: string;
  readonly user_id: string;
  readonly request_id: Buffer;
  readonly provider: string;
  readonly provider_reference: Buffer | null;
  readonly payment_url: string;
  readonly status: PaymentStatus;
  readonly settlement: PaymentSettlement;
  readonly amount_minor: string;
  readonly currency: string;
  readonly captured_minor: string | null;
  readonly captured_currency: string | null;
  readonly failure: string;
  readonly session_over: number;
  readonly expire_time: Date;
  readonly create_time: Date;
  readonly update_time: Date;
}

/** The columns that `toPayment` reads. */
export const paymentColumns = columns;

export function toPayment(row: PaymentRow): Payment {
  const captured = row.captured_minor;
  return {
    paymentId: BigInt(row.payment_id),
    orderId: BigInt(row.order_id),
    userId: BigInt(row.user_id),
    requestId: row.request_id.toString('latin1'),
    provider: row.provider,
    reference: row.provider_reference?.toString('utf8'),
    paymentUrl: row.payment_url,
    status: row.status,
    settlement: row.settlement,
    amount: { currencyCode: row.currency, minorUnits: BigInt(row.amount_minor) },
    captured:
      captured === null
        ? undefined
        : { currencyCode: row.captured_currency ?? '', minorUnits: BigInt(captured) },
    failure: row.failure,
    sessionOver: row.session_over === 1,
    expireTime: row.expire_time,
    createTime: row.create_time,
    updateTime: row.update_time,
  };
}
