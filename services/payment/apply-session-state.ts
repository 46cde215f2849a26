import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import { applyReport, type Payment, type ReportedPayment, type SessionReport } from './payment.ts';
import { type PaymentDatabase, transaction } from './payment-database.ts';
import { lockPayments, writePayments } from './payment-store.ts';
import { insertRefunds, surplusRefund } from './refund-store.ts';

/** What happens after the commit; lost with the process, it happens later by the loops. */
export interface AfterSettling {
  /** Tells order of payments that are AWAITING. */
  tellOrder(payments: readonly Payment[]): void;
  wakeRefunds(): void;
}

/** What reports did, before the transaction is committed. */
export interface MovedPayments {
  /** One for each report, in order; undefined where there is no such payment. */
  readonly results: readonly (ReportedPayment | undefined)[];
  readonly awaiting: readonly Payment[];
  readonly surplus: readonly Payment[];
}

/** The loop leaves a payment to the process that took the money in for this long. */
const tellAfterMs = 10_000;

/**
 * Applies reports of sessions, wherever they come from, to the payments: the one way to a new state. Each answers with
 * the payment after it, or undefined if there is none.
 *
 * @throws Refusal OUTCOME_UNKNOWN, DEPENDENCY_DOWN
 */
export type ApplySessionState = (
  reports: readonly SessionReport[],
  deadline: Deadline,
) => Promise<readonly (ReportedPayment | undefined)[]>;

export function createApplySessionState({
  database,
  afterSettling,
  log,
}: {
  readonly database: PaymentDatabase;
  readonly afterSettling: AfterSettling;
  readonly log: Log;
}): ApplySessionState {
  return async (reports, deadline) => {
    const moved = await transaction(database, { deadline }, async (connection) => {
      const done = await movePayments(connection, reports);
      if (failpoints.on) await failpoints.hit('payment.before_apply_commit', infoOf(reports));
      return done;
    });
    if (failpoints.on) await failpoints.hit('payment.after_apply_commit', infoOf(reports));
    settle(moved, afterSettling, log);
    return moved.results;
  };
}

/** Moves payments inside a transaction of the caller's, who calls `settle` after its commit. */
export async function movePayments(
  connection: PoolConnection,
  reports: readonly SessionReport[],
): Promise<MovedPayments> {
  const ids = [...new Set(reports.map(({ paymentId }) => paymentId))].sort(ascending);
  const before = await lockPayments(connection, ids);
  const after = new Map(before);
  const results = reports.map((report) => {
    const payment = after.get(report.paymentId);
    if (payment === undefined) return undefined;
    const reported = applyReport(payment, report);
    after.set(report.paymentId, reported.payment);
    return reported;
  });
  const changed = [...after.values()].filter(
    (payment) => before.get(payment.paymentId) !== payment,
  );
  await writePayments(connection, changed, tellAfterMs);
  const paid = (effect: ReportedPayment['effect']): Payment[] =>
    results.flatMap((result) =>
      result?.effect === effect && result.payment.captured ? [result.payment] : [],
    );
  const surplus = paid('wrong_amount');
  const refunds = surplus
    .filter(({ captured }) => captured !== undefined && captured.minorUnits > 0n)
    .map((payment) => surplusRefund(payment, 'The amount paid is not the amount due'));
  await insertRefunds(connection, refunds);
  return { results, awaiting: paid('applied'), surplus };
}

/** What follows the commit of moved payments. */
export function settle(
  { results, awaiting, surplus }: MovedPayments,
  { tellOrder, wakeRefunds }: AfterSettling,
  log: Log,
): void {
  if (awaiting.length > 0) tellOrder(awaiting);
  for (const { paymentId } of surplus) {
    log.error({ paymentId: String(paymentId) }, 'another amount was paid; it is refunded');
  }
  for (const result of results) {
    if (result?.effect !== 'other_session') continue;
    const paymentId = String(result.payment.paymentId);
    log.error({ paymentId }, 'a report names a payment but not its session; an operator must look');
  }
  if (surplus.length > 0) wakeRefunds();
}

function infoOf(reports: readonly SessionReport[]): { paymentIds: bigint[] } {
  return { paymentIds: reports.map(({ paymentId }) => paymentId) };
}

function ascending(a: bigint, b: bigint): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
