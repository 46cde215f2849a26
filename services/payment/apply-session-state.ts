import { Batcher } from '../runtime/batcher.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import { mysqlErrno, type PoolConnection } from '../runtime/mysql.ts';
import { Refusal } from '../runtime/refusals.ts';
import { applyReport, type Payment, type ReportedPayment, type SessionReport } from './payment.ts';
import { batchTransaction, type PaymentDatabase, waitingTransaction } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import { lockFreePayments, lockPayments, writePayments } from './payment-store.ts';
import { insertRefunds, surplusRefund } from './refund-store.ts';

/** What happens after the commit; lost with the process, it happens later by the loops. */
export interface AfterSettling {
  /** Tells order of payments that are AWAITING. */
  tellOrder(payments: readonly Payment[]): void;
  wakeRefunds(): void;
}

/** What reports did, before the transaction is committed. */
export interface MovedPayments {
  /** One for each report, in order; undefined where there is no such payment, `held` where others hold its row. */
  readonly results: readonly (ReportedPayment | 'held' | undefined)[];
  readonly awaiting: readonly Payment[];
  readonly surplus: readonly Payment[];
}

/** The loop leaves a payment to the process that took the money in for this long. */
const tellAfterMs = 10_000;
/** Reports in one transaction: their rows' locks are held together. */
const entriesMax = 100;
const inFlightMax = 2;
const slowMax = 1;
/** More than are under way to the provider at once. */
const queueDepthMax = 2_000;

/**
 * Applies a report of a session to its payment, wherever it comes from: the one way to a new state. Answers with the
 * payment after it, or undefined if there is none.
 *
 * @throws Refusal OUTCOME_UNKNOWN, DEPENDENCY_DOWN, OVERLOADED
 */
export type ApplySessionState = (
  report: SessionReport,
  deadline: Deadline,
) => Promise<ReportedPayment | undefined>;

export interface ApplySessionStateOptions {
  readonly database: PaymentDatabase;
  readonly afterSettling: AfterSettling;
  readonly metrics: Pick<PaymentMetrics, 'hops'>;
  readonly log: Log;
}

/** Reports that come together share a transaction; one whose payment others hold, or which makes it fail, goes apart. */
export function createApplySessionState(options: ApplySessionStateOptions): {
  readonly applySessionState: ApplySessionState;
  close(): Promise<void>;
} {
  const { database, afterSettling, metrics, log } = options;
  const batches = new Batcher<SessionReport, ReportedPayment | 'held' | undefined>({
    name: 'reports_to_mysql',
    ...{ entriesMax, inFlightMax, slowMax, queueDepthMax, metrics: metrics.hops },
    async run(reports, { deadline }) {
      try {
        const inBatch = { deadline, attempts: 1 };
        const moved = await batchTransaction(database, inBatch, (connection) =>
          moveAndHit(connection, reports, 'free'),
        );
        return await settled(moved, reports);
      } catch (error) {
        if (error instanceof Refusal) throw error;
        log.warn({ err: error }, 'reports were not applied together; each is applied alone');
        return reports.map(() => 'held');
      }
    },
  });

  async function settled(
    moved: MovedPayments,
    reports: readonly SessionReport[],
  ): Promise<MovedPayments['results']> {
    if (failpoints.on) await failpoints.hit('payment.after_apply_commit', infoOf(reports));
    settle(moved, afterSettling, log);
    return moved.results;
  }

  return {
    async applySessionState(report, deadline) {
      const together = await batches.add(report, deadline);
      if (together !== 'held') return together;
      const moved = await waitingTransaction(database, { deadline }, (connection) =>
        moveAndHit(connection, [report], 'all'),
      ).catch((error) => {
        if (mysqlErrno(error) === undefined) throw error;
        throw new Refusal('OUTCOME_UNKNOWN', 'The payment cannot be changed now', { cause: error });
      });
      const [alone] = await settled(moved, [report]);
      return alone === 'held' ? undefined : alone;
    },
    close: () => batches.close(),
  };
}

async function moveAndHit(
  connection: PoolConnection,
  reports: readonly SessionReport[],
  rows: 'free' | 'all',
): Promise<MovedPayments> {
  const moved = await movePayments(connection, reports, rows);
  if (failpoints.on) await failpoints.hit('payment.before_apply_commit', infoOf(reports));
  return moved;
}

/**
 * Moves payments inside a transaction of the caller's, who calls `settle` after its commit.
 *
 * @param rows `free`: payments that others hold are left as they are; `all`: waits for them
 */
export async function movePayments(
  connection: PoolConnection,
  reports: readonly SessionReport[],
  rows: 'free' | 'all',
): Promise<MovedPayments> {
  const ids = [...new Set(reports.map(({ paymentId }) => paymentId))].sort(ascending);
  const { free: before, held } =
    rows === 'free'
      ? await lockFreePayments(connection, ids)
      : { free: await lockPayments(connection, ids), held: new Set<bigint>() };
  const after = new Map(before);
  const results = reports.map((report) => {
    if (held.has(report.paymentId)) return 'held';
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
      result !== undefined &&
      result !== 'held' &&
      result.effect === effect &&
      result.payment.captured
        ? [result.payment]
        : [],
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
    if (result === 'held' || result?.effect !== 'other_session') continue;
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
