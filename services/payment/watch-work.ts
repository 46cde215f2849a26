import type { RowDataPacket } from 'mysql2/promise';
import { PaymentSettlement } from '../../gen/sluice/payment/v1/payment.ts';
import { Deadline } from '../runtime/deadline.ts';
import type { Log } from '../runtime/log.ts';
import { type Loop, startLoop } from '../runtime/loop.ts';
import { type PaymentDatabase, query } from './payment-database.ts';
import type { PaymentMetrics, WorkKind } from './payment-metrics.ts';

const intervalMs = 5_000;
const deadlineMs = 5_000;

/** Each finds its rows by the index that the loops use. */
const statements: Readonly<Record<WorkKind, string>> = {
  record: `SELECT COUNT(*) AS due, TIMESTAMPDIFF(MICROSECOND, MIN(update_time), NOW(3)) / 1e6 AS seconds
    FROM payments WHERE settlement = ${PaymentSettlement.PAYMENT_SETTLEMENT_AWAITING}`,
  poll: `SELECT COUNT(*) AS due, TIMESTAMPDIFF(MICROSECOND, MIN(next_time), NOW(3)) / 1e6 AS seconds
    FROM payments WHERE settlement = 0 AND next_time <= NOW(3)`,
  refund: `SELECT COUNT(*) AS due, TIMESTAMPDIFF(MICROSECOND, MIN(create_time), NOW(3)) / 1e6 AS seconds
    FROM refunds WHERE next_time IS NOT NULL`,
  webhook: `SELECT COUNT(*) AS due, TIMESTAMPDIFF(MICROSECOND, MIN(create_time), NOW(3)) / 1e6 AS seconds
    FROM (SELECT create_time FROM webhooks_aside LIMIT 10000) kept`,
};

/**
 * Shows how much work waits and for how long: a payment that order does not know of, a silent one, a refund, a
 * webhook that was set aside.
 */
export function startWatchWork({
  database,
  metrics,
  log,
}: {
  readonly database: PaymentDatabase;
  readonly metrics: Pick<PaymentMetrics, 'workDue' | 'workAgeSeconds'>;
  readonly log: Log;
}): Loop {
  return startLoop({
    name: 'watch-work',
    intervalMs,
    log,
    async run() {
      for (const [kind, statement] of Object.entries(statements) as [WorkKind, string][]) {
        const deadline = Deadline.after(deadlineMs);
        const [row] = await query<RowDataPacket[]>(database, statement, [], { deadline });
        metrics.workDue.set({ kind }, Number(row?.due ?? 0));
        metrics.workAgeSeconds.set({ kind }, Math.max(0, Number(row?.seconds ?? 0)));
      }
    },
  });
}
