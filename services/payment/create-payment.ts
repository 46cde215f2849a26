import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { duplicateKeyErrno, mysqlErrno } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { OrderGateway } from './order-gateway.ts';
import type { PacedProvider } from './paced-provider.ts';
import { isOpened, type Payment } from './payment.ts';
import type { PaymentDatabase } from './payment-database.ts';
import { nextId } from './payment-id.ts';
import type { PaymentSessions } from './payment-session.ts';
import {
  insertPayment,
  type NewPayment,
  type Payable,
  readPayable,
  readPaymentsOfOrder,
} from './payment-store.ts';

/** Names one attempt of a buyer to pay an order. */
export interface PaymentAttempt {
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly requestId: string;
}

/**
 * Opens a payment of an order; the same attempt again is answered with the payment that it has opened.
 *
 * @throws Refusal NOT_FOUND (also for another user's order), ILLEGAL_TRANSITION (the order cannot be paid any more, is
 *   paid, costs nothing, or was tried too often), OVERLOADED, DEPENDENCY_DOWN, OUTCOME_UNKNOWN (the same attempt again
 *   settles it)
 */
export type CreatePayment = (attempt: PaymentAttempt, deadline: Deadline) => Promise<Payment>;

export interface CreatePaymentOptions {
  readonly database: PaymentDatabase;
  readonly order: Pick<OrderGateway, 'beginPayment'>;
  readonly sessions: Pick<PaymentSessions, 'open'>;
  readonly openings: Pick<PacedProvider, 'admit'>;
  /** Who takes new payments. */
  readonly provider: string;
  readonly pollMs: number;
}

/** Attempts to pay one order. */
export const attemptsMax = 20;

export function createCreatePayment(options: CreatePaymentOptions): CreatePayment {
  const { database, sessions } = options;
  return async (attempt, deadline) => {
    const before = await readAttempt(database, attempt, deadline);
    if (before && isOpened(before)) return before;
    // Taken before anything is done, so that who is refused has left nothing behind.
    const place = await options.openings.admit(deadline);
    try {
      const paymentId = before?.paymentId ?? (await begin(options, attempt, deadline));
      return await sessions.open(paymentId, deadline, place);
    } finally {
      place.leave();
    }
  };
}

/** @returns the id of the stored payment, which a copy of this attempt may have made */
async function begin(
  options: CreatePaymentOptions,
  attempt: PaymentAttempt,
  deadline: Deadline,
): Promise<bigint> {
  const { order, provider } = options;
  const { orderId, userId, requestId } = attempt;
  if (failpoints.on) await failpoints.hit('payment.before_begin', { orderId });
  const { total, expireTime } = await order.beginPayment(orderId, userId, deadline);
  if (failpoints.on) await failpoints.hit('payment.after_begin', { orderId });
  const paymentId = nextId();
  const fresh = { paymentId, orderId, userId, requestId, provider, amount: total, expireTime };
  const stored = await insertOrRead(options, fresh, deadline);
  if (failpoints.on) await failpoints.hit('payment.after_insert_payment', { orderId });
  return stored;
}

async function insertOrRead(
  { database, pollMs }: CreatePaymentOptions,
  payment: NewPayment,
  deadline: Deadline,
): Promise<bigint> {
  if (failpoints.on) await failpoints.hit('payment.before_insert_commit');
  try {
    const limits = { firstPollMs: pollMs, attemptsMax };
    if (await insertPayment(database, payment, limits, deadline)) return payment.paymentId;
    throw notPayable(await readPayable(database, payment.orderId, deadline));
  } catch (error) {
    // A copy of this very attempt was faster.
    if (mysqlErrno(error) !== duplicateKeyErrno) throw error;
  }
  const stored = await readAttempt(database, payment, deadline);
  if (stored === undefined) throw new Refusal('OUTCOME_UNKNOWN', 'The payment was not stored');
  return stored.paymentId;
}

/** Order refuses what is paid or closed; this refuses what is about to be, and who tries for ever. */
function notPayable({ attempts, isPaid, isClosed }: Payable): Refusal {
  if (isClosed) return new Refusal('ILLEGAL_TRANSITION', 'The order is being closed');
  if (isPaid) return new Refusal('ILLEGAL_TRANSITION', 'The order is being paid');
  if (attempts >= attemptsMax) {
    const message = `The order was tried to be paid ${attemptsMax} times; make a new order`;
    return new Refusal('ILLEGAL_TRANSITION', message);
  }
  return new Refusal('OVERLOADED', 'What spoke against the payment is over');
}

async function readAttempt(
  database: PaymentDatabase,
  { orderId, userId, requestId }: PaymentAttempt,
  deadline: Deadline,
): Promise<Payment | undefined> {
  const payments = await readPaymentsOfOrder(database, orderId, deadline);
  const found = payments.find((payment) => payment.requestId === requestId);
  if (found && found.userId !== userId) throw new Refusal('NOT_FOUND', 'There is no such order');
  return found;
}
