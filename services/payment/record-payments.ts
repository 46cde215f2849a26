import type { RowDataPacket } from 'mysql2/promise';
import { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import { Batcher } from '../runtime/batcher.ts';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { claimPayments } from './claims.ts';
import type { OrderAnswer, OrderGateway } from './order-gateway.ts';
import type { Payment } from './payment.ts';
import { batchTransaction, type PaymentDatabase } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import { lockPayments } from './payment-store.ts';
import { insertRefunds, surplusRefund } from './refund-store.ts';

/** Tells order of payments that are AWAITING, until it has answered. */
export interface RecordPayments {
  /** Now, without waiting; what fails is told again by the loop. */
  tellSoon(payments: readonly Payment[]): void;
  /** Now; answers when the answer is stored. @throws Refusal if it is not known or not stored */
  tell(payment: Payment, deadline: Deadline): Promise<OrderAnswer>;
  close(): Promise<void>;
}

export interface RecordPaymentsOptions {
  readonly database: PaymentDatabase;
  readonly order: Pick<OrderGateway, 'recordPayments'>;
  readonly wakeRefunds: () => void;
  readonly metrics: Pick<PaymentMetrics, 'hops'>;
  readonly log: Log;
}

/** Payments in one call: order changes as many in one transaction. */
const paymentsMax = 200;
/** Two keep order busy while an answer travels, and two transactions store what came; more would make batches smaller. */
const inFlightMax = 2;
/** About five seconds of the busiest hour; what does not fit is told by the loop. */
const queueDepthMax = 5_000;
const tellDeadlineMs = 8_000;
/** Answers stored in one transaction. */
const answersMax = 200;
/** A deadlock or lock wait of a batch runs it once more at most; then each answer goes alone. */
const attemptsMax = 2;
const intervalMs = 1_000;
/** Order is one of ours, so it is asked often: a paid order must not wait five minutes for its state. */
const backoff = { firstMs: 1_000, maxMs: 30_000 };
/** Payments that one round claims, in pages. */
const pageMax = 500;
const pagesMax = 20;

interface Answer {
  readonly payment: Payment;
  readonly record: OrderAnswer;
}

export function createRecordPayments(options: RecordPaymentsOptions): RecordPayments {
  const { order, metrics, log } = options;
  const hops = { inFlightMax, queueDepthMax, metrics: metrics.hops };
  const calls = new Batcher<Payment, OrderAnswer>({
    ...{ ...hops, name: 'payment_to_order', entriesMax: paymentsMax },
    run: (payments, { deadline }) => ask(order, payments, deadline),
  });
  const answers = new Batcher<Answer, OrderAnswer>({
    ...{ ...hops, name: 'records_to_mysql', entriesMax: answersMax },
    run: (batch, { deadline }) => storeEach(options, batch, deadline),
  });
  // The loop may claim a payment that still waits here; it is not told twice at once.
  const underWay = new Map<bigint, Promise<OrderAnswer>>();

  async function tellOnce(payment: Payment, deadline: Deadline): Promise<OrderAnswer> {
    const record = await calls.add(payment, deadline);
    return await answers.add({ payment, record }, deadline);
  }

  function tell(payment: Payment, deadline: Deadline): Promise<OrderAnswer> {
    const { paymentId } = payment;
    let telling = underWay.get(paymentId);
    if (telling === undefined) {
      telling = tellOnce(payment, deadline).finally(() => underWay.delete(paymentId));
      underWay.set(paymentId, telling);
    }
    return telling;
  }

  return {
    tell,
    tellSoon(payments) {
      for (const payment of payments) {
        tell(payment, Deadline.after(tellDeadlineMs)).catch((error) => {
          log.debug({ err: error }, 'order does not know of a payment yet; it is told again');
        });
      }
    },
    async close() {
      await calls.close();
      await answers.close();
    },
  };
}

/** Tells order again of payments whose answer never came, in whatever process they were taken in. */
export function startRecordPayments({
  database,
  recordPayments,
  log,
}: {
  readonly database: PaymentDatabase;
  readonly recordPayments: RecordPayments;
  readonly log: Log;
}): Loop {
  return startLoop({
    name: 'record-payments',
    intervalMs,
    log,
    async run(signal) {
      for (let page = 0; page < pagesMax && !signal.aborted; page += 1) {
        const deadline = Deadline.after(tellDeadlineMs);
        const settlement = PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING;
        const due = await claimPayments(database, { settlement, backoff, max: pageMax }, deadline);
        const told = await Promise.allSettled(
          due.map((payment) => recordPayments.tell(payment, Deadline.after(tellDeadlineMs))),
        );
        const failed = told.find((result) => result.status === 'rejected');
        if (failed) throw failed.reason;
        if (due.length < pageMax) return;
      }
    },
  });
}

async function ask(
  order: RecordPaymentsOptions['order'],
  payments: readonly Payment[],
  deadline: Deadline,
): Promise<readonly (OrderAnswer | Refusal)[]> {
  const paymentIds = payments.map(({ paymentId }) => paymentId);
  if (failpoints.on) await failpoints.hit('payment.before_record', { paymentIds });
  const records = await order.recordPayments(payments, deadline);
  if (failpoints.on) await failpoints.hit('payment.after_record', { paymentIds, records });
  return records;
}

/** Answers in one transaction; if one of them makes it fail, each alone, so that the others are stored. */
async function storeEach(
  options: RecordPaymentsOptions,
  answers: readonly Answer[],
  deadline: Deadline,
): Promise<(OrderAnswer | Error)[]> {
  try {
    return await store(options, answers, deadline);
  } catch (error) {
    const ours = error instanceof Refusal;
    if (ours || answers.length === 1) throw error;
    options.log.warn({ err: error }, 'a batch of answers was not stored; each is tried alone');
  }
  const results: (OrderAnswer | Error)[] = [];
  for (const answer of answers) {
    const [result] = await store(options, [answer], deadline).catch((cause) => [cause]);
    results.push(result);
  }
  return results;
}

/** Stores what order answered; a payment that pays nothing is noted down to be refunded, once. */
async function store(
  { database, wakeRefunds, log }: RecordPaymentsOptions,
  answers: readonly Answer[],
  deadline: Deadline,
): Promise<OrderAnswer[]> {
  const idsOf = (wanted: OrderAnswer): bigint[] =>
    answers.filter(({ record }) => record === wanted).map(({ payment }) => payment.paymentId);
  const [recorded, closed] = [idsOf('RECORDED'), idsOf('ORDER_CLOSED')];
  const info = { recorded, closed };
  const attempts = attemptsMax;
  const surplus = await batchTransaction(database, { deadline, attempts }, async (connection) => {
    await setSettlement(connection, recorded, PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED);
    const found = await refundSurplus(connection, closed);
    if (failpoints.on) await failpoints.hit('payment.before_settle_commit', info);
    return found;
  });
  if (failpoints.on) await failpoints.hit('payment.after_settle_commit', info);
  if (surplus > 0) {
    log.info({ payments: surplus }, 'payments that pay no order are refunded');
    wakeRefunds();
  }
  return answers.map(({ record }) => record);
}

async function refundSurplus(
  connection: PoolConnection,
  paymentIds: readonly bigint[],
): Promise<number> {
  const locked = await lockPayments(connection, paymentIds);
  const awaiting = [...locked.values()].filter(
    ({ settlement }) => settlement === PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING,
  );
  const ids = awaiting.map(({ paymentId }) => paymentId);
  await setSettlement(connection, ids, PaymentSettlement.PAYMENT_SETTLEMENT_SURPLUS);
  const reason = 'The order was closed or paid otherwise';
  await insertRefunds(
    connection,
    awaiting.map((payment) => surplusRefund(payment, reason)),
  );
  return awaiting.length;
}

async function setSettlement(
  connection: PoolConnection,
  paymentIds: readonly bigint[],
  settlement: PaymentSettlement,
): Promise<void> {
  if (paymentIds.length === 0) return;
  await connection.query<RowDataPacket[]>(
    `UPDATE payments SET settlement = ?, next_time = NULL, update_time = NOW(3)
     WHERE payment_id IN (?) AND settlement = ${PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING}`,
    [settlement, paymentIds],
  );
}
