import { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import { Batcher } from '../runtime/batcher.ts';
import { startClaimedWork } from '../runtime/claimed-work.ts';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import type { Loop } from '../runtime/loop.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import { isBusinessRefusal, Refusal } from '../runtime/refusals.ts';
import { claimPayments } from './claims.ts';
import type { OrderAnswer, OrderGateway } from './order-gateway.ts';
import { type Lane, OrderLanes } from './order-lanes.ts';
import type { Payment } from './payment.ts';
import { batchTransaction, type PaymentDatabase, waitingTransaction } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import { lockFreePayments, lockPayments } from './payment-store.ts';
import { insertRefunds, surplusRefund } from './refund-store.ts';

/** Tells order of payments that are AWAITING, until it has answered. */
export interface RecordPayments {
  /** Now, without waiting; what fails is told again by the loop. */
  tellSoon(payments: readonly Payment[]): void;
  /**
   * Now; answers when the answer is stored.
   *
   * @param again it was told before, and goes apart from those that were not
   * @throws Refusal if it is not known or not stored
   */
  tell(payment: Payment, deadline: Deadline, again?: boolean): Promise<OrderAnswer>;
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
const slowMax = 1;
/** About five seconds of the busiest hour; what does not fit is told by the loop. */
const queueDepthMax = 5_000;
const tellDeadlineMs = 8_000;
/** Answers stored in one transaction. */
const answersMax = 200;
/** A deadlock of a batch runs it once more at most; then each answer is stored alone. */
const attemptsMax = 2;
const intervalMs = 1_000;
const claimMs = 5_000;
/** Order is one of ours, so it is asked often: a paid order must not wait five minutes for its state. */
const backoff = { firstMs: 1_000, maxMs: 30_000 };
/** Payments that the loop tells at once, so that they share calls; and besides, those that order is slow to answer. */
const slots = 200;
const slowSlots = 800;

interface Telling {
  readonly payment: Payment;
  /** Payments share calls with those of the same lane. */
  readonly lane: Lane;
}

interface Answer {
  readonly payment: Payment;
  readonly record: OrderAnswer;
}

export function createRecordPayments(options: RecordPaymentsOptions): RecordPayments {
  const { order, metrics, log } = options;
  const hops = { inFlightMax, slowMax, queueDepthMax, metrics: metrics.hops };
  const lanes = new OrderLanes();
  const calls = new Batcher<Telling, OrderAnswer>({
    ...{ ...hops, name: 'payment_to_order', entriesMax: paymentsMax },
    keyOf: ({ lane }) => lane,
    run: (tellings, { deadline }) =>
      ask(
        order,
        tellings.map(({ payment }) => payment),
        deadline,
      ),
  });
  const answers = new Batcher<Answer, OrderAnswer | 'held'>({
    ...{ ...hops, name: 'records_to_mysql', entriesMax: answersMax },
    run: (batch, { deadline }) => storeTogether(options, batch, deadline),
  });
  // The loop may claim a payment that still waits here; it is not told twice at once.
  const underWay = new Map<bigint, Promise<OrderAnswer>>();

  async function tellOnce(
    payment: Payment,
    deadline: Deadline,
    again: boolean,
  ): Promise<OrderAnswer> {
    const { orderId } = payment;
    const telling = calls.add({ payment, lane: lanes.of(orderId, again) }, deadline);
    const record = await telling.catch((error) => {
      if (!isBusinessRefusal(error)) lanes.failed(orderId);
      throw error;
    });
    lanes.answered(orderId);
    const stored = await answers.add({ payment, record }, deadline);
    if (stored === 'held') await store(options, [{ payment, record }], deadline, 'all');
    return record;
  }

  function tell(payment: Payment, deadline: Deadline, again = false): Promise<OrderAnswer> {
    const { paymentId } = payment;
    let telling = underWay.get(paymentId);
    if (telling === undefined) {
      telling = tellOnce(payment, deadline, again).finally(() => underWay.delete(paymentId));
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
  const settlement = PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING;
  return startClaimedWork<Payment>({
    name: 'record-payments',
    ...{ intervalMs, slots, slowMax: slowSlots, log },
    claim: (max) => claimPayments(database, { settlement, backoff, max }, Deadline.after(claimMs)),
    async run(payment) {
      await recordPayments.tell(payment, Deadline.after(tellDeadlineMs), true);
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

/** Answers in one transaction; if one of them makes it fail, each is stored alone, so that the others are stored. */
async function storeTogether(
  options: RecordPaymentsOptions,
  answers: readonly Answer[],
  deadline: Deadline,
): Promise<(OrderAnswer | 'held')[]> {
  try {
    const held = await store(options, answers, deadline, 'free');
    return answers.map(({ payment, record }) => (held.has(payment.paymentId) ? 'held' : record));
  } catch (error) {
    if (error instanceof Refusal) throw error;
    options.log.warn({ err: error }, 'answers were not stored together; each is stored alone');
    return answers.map(() => 'held');
  }
}

/**
 * Stores what order answered; a payment that pays nothing is noted down to be refunded, once.
 *
 * @param rows `free`: payments that others hold are left out; `all`: waits for them
 * @returns those that were left out
 */
async function store(
  { database, wakeRefunds, log }: RecordPaymentsOptions,
  answers: readonly Answer[],
  deadline: Deadline,
  rows: 'free' | 'all',
): Promise<ReadonlySet<bigint>> {
  const idsOf = (wanted: OrderAnswer): bigint[] =>
    answers.filter(({ record }) => record === wanted).map(({ payment }) => payment.paymentId);
  const [recorded, closed] = [idsOf('RECORDED'), idsOf('ORDER_CLOSED')];
  const info = { recorded, closed };
  const work = async (connection: PoolConnection): Promise<Stored> => {
    const done = await settleLocked(connection, [...recorded, ...closed], new Set(closed), rows);
    if (failpoints.on) await failpoints.hit('payment.before_settle_commit', info);
    return done;
  };
  const stored =
    rows === 'free'
      ? await batchTransaction(database, { deadline, attempts: attemptsMax }, work)
      : await waitingTransaction(database, { deadline }, work);
  if (failpoints.on) await failpoints.hit('payment.after_settle_commit', info);
  if (stored.surplus > 0) {
    log.info({ payments: stored.surplus }, 'payments that pay no order are refunded');
    wakeRefunds();
  }
  return stored.held;
}

interface Stored {
  /** Payments that pay nothing, and are refunded. */
  readonly surplus: number;
  readonly held: ReadonlySet<bigint>;
}

async function settleLocked(
  connection: PoolConnection,
  ids: readonly bigint[],
  closed: ReadonlySet<bigint>,
  rows: 'free' | 'all',
): Promise<Stored> {
  const { free, held } =
    rows === 'free'
      ? await lockFreePayments(connection, ids)
      : { free: await lockPayments(connection, ids), held: new Set<bigint>() };
  const awaiting = [...free.values()].filter(
    ({ settlement }) => settlement === PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING,
  );
  const surplus = awaiting.filter(({ paymentId }) => closed.has(paymentId));
  const paying = awaiting.filter(({ paymentId }) => !closed.has(paymentId));
  await setSettlement(connection, paying, PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED);
  await setSettlement(connection, surplus, PaymentSettlement.PAYMENT_SETTLEMENT_SURPLUS);
  const reason = 'The order was closed or paid otherwise';
  await insertRefunds(
    connection,
    surplus.map((payment) => surplusRefund(payment, reason)),
  );
  return { surplus: surplus.length, held };
}

async function setSettlement(
  connection: PoolConnection,
  locked: readonly Payment[],
  settlement: PaymentSettlement,
): Promise<void> {
  if (locked.length === 0) return;
  const ids = locked.map(({ paymentId }) => paymentId);
  await connection.query(
    `UPDATE payments SET settlement = ?, next_time = NULL, update_time = NOW(3)
     WHERE payment_id IN (?)`,
    [settlement, ids],
  );
}
