import { PaymentSettlement, RefundStatus } from '../../gen/sluice/payment/v1/payment.ts';
import { startClaimedWork } from '../runtime/claimed-work.ts';
import { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import type { Loop } from '../runtime/loop.ts';
import { Refusal } from '../runtime/refusals.ts';
import { applyRefundReport, type RefundReporting } from './apply-refund-state.ts';
import { claimRefunds, postponeRefund } from './claims.ts';
import type { OrderGateway } from './order-gateway.ts';
import type { PacedProvider } from './paced-provider.ts';
import type { Payment } from './payment.ts';
import type { PaymentDatabase } from './payment-database.ts';
import { readPayment } from './payment-store.ts';
import type { RefundState } from './provider.ts';
import { type Refund, refundableMinor, refundedSoFar, Told } from './refund.ts';
import { markSent, readRefunds, writeTold } from './refund-store.ts';

export interface RefundWorkerOptions extends RefundReporting {
  readonly database: PaymentDatabase;
  readonly providers: ReadonlyMap<string, Pick<PacedProvider, 'refund' | 'readRefund'>>;
  readonly order: Pick<OrderGateway, 'recordRefund'>;
  readonly log: Log;
}

const intervalMs = 1_000;
/** One attempt at one refund, with all that it asks. */
const attemptMs = 15_000;
/** Longer than an attempt, so that a refund is not in two hands; shorter than anybody would wait for a dead one. */
const leaseMs = 20_000;
const bookkeepingMs = 5_000;
const backoff = { firstMs: 500, maxMs: 300_000 };
/** Carried out at once, besides those that hang. */
const slots = 16;

/** Carries refunds out: sends them, asks what became of them, and tells order. Several processes may run one each. */
export function startRefundWorker(options: RefundWorkerOptions): Loop {
  const { database, log } = options;
  return startClaimedWork<Refund>({
    name: 'refunds',
    ...{ intervalMs, slots, log },
    claim: (max) =>
      claimRefunds(
        database,
        { leaseMs, waitMaxMs: backoff.maxMs, max },
        Deadline.after(bookkeepingMs),
      ),
    run: (refund) => attempt(options, refund),
  });
}

/** One attempt; whatever it meets, the refund stays due until it is over and told. @throws what it met, afterwards */
async function attempt(options: RefundWorkerOptions, refund: Refund): Promise<void> {
  const { database, log } = options;
  let failure: unknown;
  try {
    if (await advance(options, refund, Deadline.after(attemptMs))) return;
  } catch (error) {
    failure = error;
    const refundId = String(refund.refundId);
    log.warn({ err: error, refundId }, 'a refund is not through yet; it is tried again');
  }
  const deadline = Deadline.after(bookkeepingMs);
  // If this fails too, the claim runs out by itself.
  await postponeRefund(database, refund.refundId, backoff, deadline).catch((error) => {
    log.warn({ err: error }, 'a refund could not be put off');
  });
  if (failure !== undefined) throw failure;
}

/** @returns whether nothing is left to do */
async function advance(
  options: RefundWorkerOptions,
  refund: Refund,
  deadline: Deadline,
): Promise<boolean> {
  const { database } = options;
  const payment = await readPayment(database, refund.paymentId, deadline);
  if (payment === undefined) throw new Error('a refund without its payment');
  let after: Refund = refund;
  if (!isSettled(refund)) {
    await tellBegun(options, payment, refund, deadline);
    const state = await send(options, payment, refund, deadline);
    const report = { refundId: refund.refundId, state };
    after = (await applyRefundReport(options, report, deadline)) ?? refund;
    if (!isSettled(after)) return false;
  }
  if (after.status !== RefundStatus.REFUND_STATUS_SUCCEEDED) return true;
  if (paysOrder(payment)) return await tellDone(options, payment, after, deadline);
  // Order never learns of money that did not pay it, so it knows all that it is to know.
  await writeTold(database, after, Told.all, deadline);
  return true;
}

/** The provider is asked first about a refund that may have reached it. */
async function send(
  { providers, database }: RefundWorkerOptions,
  payment: Payment,
  refund: Refund,
  deadline: Deadline,
): Promise<RefundState> {
  const { refundId, amount, status } = refund;
  const provider = providers.get(payment.provider);
  if (!provider) {
    throw new Refusal('DEPENDENCY_DOWN', `The provider ${payment.provider} is not configured`);
  }
  if (payment.reference === undefined) throw new Error('a refund of a payment without session');
  const order = { refundId, reference: payment.reference, amount };
  if (status === RefundStatus.REFUND_STATUS_SENT) {
    const known = await provider.readRefund(order, deadline);
    if (failpoints.on) await failpoints.hit('payment.after_read_refund', { refundId });
    if (known) return known;
  } else {
    await markSent(database, refundId, deadline);
  }
  if (failpoints.on) await failpoints.hit('payment.before_refund', { refundId });
  try {
    const state = await provider.refund(order, deadline);
    if (failpoints.on) await failpoints.hit('payment.after_refund', { refundId });
    return state;
  } catch (error) {
    const forGood = error instanceof Refusal && error.reason === 'INVALID_REQUEST';
    if (!forGood) throw error;
    return { kind: 'failed', failure: error.message };
  }
}

/** Order shows a refund as begun only if nothing of its payment will be left. */
async function tellBegun(
  { database, order, log }: RefundWorkerOptions,
  payment: Payment,
  refund: Refund,
  deadline: Deadline,
): Promise<void> {
  if (!paysOrder(payment) || refund.told !== Told.nothing) return;
  const refunds = await readRefunds(database, [payment.paymentId], deadline);
  if (refundableMinor(payment, refunds) > 0n) return;
  const { orderId, paymentId, amount } = payment;
  const progress = { orderId, paymentId, refundedTotal: amount, done: false, restock: false };
  if (failpoints.on)
    await failpoints.hit('payment.before_tell_refund', { refundId: refund.refundId });
  try {
    await order.recordRefund(progress, deadline);
  } catch (error) {
    if (!isAnswer(error)) throw error;
    // What was paid goes back whatever order makes of it.
    log.error({ err: error, paymentId: String(paymentId) }, 'order did not take in a refund begun');
  }
  if (failpoints.on)
    await failpoints.hit('payment.after_tell_refund', { refundId: refund.refundId });
  await writeTold(database, refund, Told.begun, deadline);
}

/** @returns whether order has answered */
async function tellDone(
  { database, order, log }: RefundWorkerOptions,
  payment: Payment,
  refund: Refund,
  deadline: Deadline,
): Promise<boolean> {
  if (refund.told === Told.all) return true;
  const { orderId, paymentId, amount } = payment;
  const { refundId } = refund;
  const { minor, restock } = refundedSoFar(await readRefunds(database, [paymentId], deadline));
  const refundedTotal = { currencyCode: amount.currencyCode, minorUnits: minor };
  if (failpoints.on) await failpoints.hit('payment.before_tell_refund', { refundId });
  try {
    await order.recordRefund({ orderId, paymentId, refundedTotal, done: true, restock }, deadline);
  } catch (error) {
    if (!isAnswer(error)) throw error;
    const text = 'order refuses to take in a refund that is done; an operator must look';
    log.error({ err: error, refundId: String(refundId) }, text);
    // Without an order there is nobody to tell; any other refusal may be mended, so it is told again.
    if (error.reason !== 'NOT_FOUND') return false;
  }
  if (failpoints.on) await failpoints.hit('payment.after_tell_refund', { refundId });
  await writeTold(database, refund, Told.all, deadline);
  return true;
}

const answers: ReadonlySet<string> = new Set([
  'NOT_FOUND',
  'INVALID_REQUEST',
  'ILLEGAL_TRANSITION',
]);

/** Whether order has answered, if only with a refusal. */
function isAnswer(error: unknown): error is Refusal {
  return error instanceof Refusal && answers.has(error.reason);
}

function isSettled({ status }: Refund): boolean {
  return (
    status === RefundStatus.REFUND_STATUS_SUCCEEDED || status === RefundStatus.REFUND_STATUS_FAILED
  );
}

function paysOrder({ settlement }: Payment): boolean {
  return settlement === PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED;
}
