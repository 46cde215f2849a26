import { RefundStatus } from '../../gen/sluice/payment/v1/payment.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import type { Log } from '../runtime/log.ts';
import type { PoolConnection } from '../runtime/mysql.ts';
import { type PaymentDatabase, waitingTransaction } from './payment-database.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import type { RefundState } from './provider.ts';
import {
  applyRefundState,
  contradicts,
  isOver,
  type Refund,
  surplusRequestId,
  Told,
} from './refund.ts';
import { lockFreeRefunds, lockRefunds, type NextTime, writeRefunds } from './refund-store.ts';

/** What a provider's word on a refund came to. */
export interface ReportedRefund {
  readonly effect: 'applied' | 'ignored' | 'contradiction';
  /** The refund after it. */
  readonly refund: Refund;
}

/** What a provider says of a refund. */
export interface RefundReport {
  readonly refundId: bigint;
  readonly state: RefundState;
}

/**
 * Moves refunds inside a transaction of the caller's, one report each; undefined where there is no such refund. A refund
 * that is over is due at once for telling order, unless order never learns of it.
 *
 * @param rows `free`: refunds that others hold are left as they are, and answered as `held`; `all`: waits for them
 */
export async function moveRefunds(
  connection: PoolConnection,
  reports: readonly RefundReport[],
  rows: 'free' | 'all',
): Promise<(ReportedRefund | 'held' | undefined)[]> {
  const ids = reports.map(({ refundId }) => refundId);
  const { free: refunds, held } =
    rows === 'free'
      ? await lockFreeRefunds(connection, ids)
      : { free: await lockRefunds(connection, ids), held: new Set<bigint>() };
  const results: (ReportedRefund | 'held' | undefined)[] = [];
  const changed = new Map<bigint, Refund>();
  for (const { refundId, state } of reports) {
    const before = refunds.get(refundId);
    const after = before && applyRefundState(before, state);
    if (before === undefined) {
      results.push(held.has(refundId) ? 'held' : undefined);
    } else if (after === undefined) {
      const effect = contradicts(before, state) ? 'contradiction' : 'ignored';
      results.push({ effect, refund: before });
    } else {
      refunds.set(refundId, after);
      changed.set(refundId, after);
      results.push({ effect: 'applied', refund: after });
    }
  }
  const written = [...changed.values()].map((refund) => ({ refund, nextTime: nextTimeOf(refund) }));
  await writeRefunds(connection, written);
  return results;
}

/** Applies what the provider answered to a refund. @throws Refusal OUTCOME_UNKNOWN, DEPENDENCY_DOWN */
export async function applyRefundReport(
  { database, metrics, log }: RefundReporting,
  report: RefundReport,
  deadline: Deadline,
): Promise<Refund | undefined> {
  const [reported] = await waitingTransaction(database, { deadline }, async (connection) => {
    const moved = await moveRefunds(connection, [report], 'all');
    if (failpoints.on) await failpoints.hit('payment.before_refund_commit', { ...report });
    return moved;
  });
  if (failpoints.on) await failpoints.hit('payment.after_refund_commit', { ...report });
  if (reported === undefined || reported === 'held') return undefined;
  noteRefund({ metrics, log }, reported);
  return reported.refund;
}

export interface RefundReporting {
  readonly database: PaymentDatabase;
  readonly metrics: Pick<PaymentMetrics, 'refunds'>;
  readonly log: Log;
}

/** Counts a refund that is over, and calls an operator where only one can help. */
export function noteRefund(
  { metrics, log }: Omit<RefundReporting, 'database'>,
  { effect, refund }: ReportedRefund,
): void {
  const { failure } = refund;
  const refundId = String(refund.refundId);
  if (effect === 'contradiction') {
    log.error({ refundId }, 'the provider contradicts what it said of a refund; look at both');
  }
  if (effect !== 'applied' || !isOver(refund)) return;
  const failed = refund.status === RefundStatus.REFUND_STATUS_FAILED;
  metrics.refunds.inc({ status: failed ? 'failed' : 'succeeded' });
  if (failed) log.error({ refundId, failure }, 'the provider refused a refund for good');
}

/** Order learns of refunds that succeeded, unless the payment never paid it. */
function nextTimeOf({ status, requestId, told }: Refund): NextTime {
  if (status === RefundStatus.REFUND_STATUS_FAILED) return 'never';
  if (status !== RefundStatus.REFUND_STATUS_SUCCEEDED) return 'unchanged';
  return requestId === surplusRequestId || told === Told.all ? 'never' : 'now';
}
