import type { Pool } from '../../services/runtime/mysql.ts';
import type { System } from './system.ts';

// The numbers of the protos, written again: a check that shared the services' names would share their mistakes.
const orderStatus = { pending: 1, paid: 2, refunding: 3, refunded: 4, cancelled: 5, aborted: 8 };
const paymentStatus = { pending: 1, succeeded: 2 };
const settlement = { recorded: 2, surplus: 3 };
const refundStatus = { succeeded: 3, failed: 4 };
const holdState = { sold: 2, restocked: 4 };

interface OrderRow {
  readonly orderId: string;
  readonly userId: string;
  readonly status: number;
  readonly version: number;
  readonly totalMinor: bigint;
  readonly refundedMinor: bigint;
  readonly paymentId: string;
  readonly overdue: boolean;
}

interface PaymentRow {
  readonly paymentId: string;
  readonly orderId: string;
  readonly status: number;
  readonly settlement: number;
  readonly amountMinor: bigint;
  readonly capturedMinor: bigint;
}

interface RefundRow {
  readonly paymentId: string;
  readonly amountMinor: bigint;
  readonly status: number;
}

/** The databases that money and events leave their traces in. */
export type MoneyInspected = Pick<
  System,
  'stockPool' | 'orderPools' | 'paymentPool' | 'eventsPool' | 'warehousePool'
>;

/**
 * Compares orders, payments, refunds, holds, and what events made of them, with the promises P6 and
 * P7, at rest: work that is still on its way counts as a breach, so ask until there is none.
 */
export async function findMoneyBreaches(system: MoneyInspected): Promise<string[]> {
  const orders = await readOrderRows(system.orderPools);
  const payments = await readPayments(system.paymentPool);
  const refunds = await readRefunds(system.paymentPool);
  return [
    ...paymentBreaches(orders, payments),
    ...refundBreaches(orders, payments, refunds),
    ...(await soldBreaches(system.stockPool, orders)),
    ...(await warehouseBreaches(system.warehousePool, orders)),
    ...(await statisticsBreaches(system.eventsPool, orders)),
    ...(await mailBreaches(system.eventsPool, orders)),
  ];
}

/** What the provider must have kept: what was captured and did not go back, in minor units. */
export async function keptByOrders(pools: readonly Pool[]): Promise<bigint> {
  let kept = 0n;
  for (const order of (await readOrderRows(pools)).values()) {
    if (wasPaid(order)) kept += order.totalMinor - order.refundedMinor;
  }
  return kept;
}

function wasPaid({ status }: OrderRow): boolean {
  return status >= orderStatus.paid && status <= orderStatus.refunded;
}

function paymentBreaches(
  orders: ReadonlyMap<string, OrderRow>,
  payments: readonly PaymentRow[],
): string[] {
  const breaches: string[] = [];
  const recorded = new Map<string, PaymentRow>();
  for (const payment of payments) {
    const { paymentId, orderId, status } = payment;
    if (status !== paymentStatus.succeeded) continue;
    if (payment.settlement !== settlement.recorded && payment.settlement !== settlement.surplus) {
      breaches.push(`P6 payment ${paymentId} is paid and order was not told`);
    }
    if (payment.settlement !== settlement.recorded) continue;
    if (recorded.has(orderId)) breaches.push(`P6 order ${orderId} has two payments`);
    recorded.set(orderId, payment);
    if (orders.get(orderId)?.paymentId !== paymentId) {
      breaches.push(`P6 payment ${paymentId} is recorded and not that of order ${orderId}`);
    }
  }
  for (const order of orders.values()) {
    const payment = recorded.get(order.orderId);
    if (order.overdue) breaches.push(`I8 order ${order.orderId} is PENDING past its time`);
    if (order.status === orderStatus.refunding) breaches.push(`I8 ${order.orderId} is REFUNDING`);
    if (wasPaid(order) !== (payment !== undefined)) {
      breaches.push(`P6 order ${order.orderId} in state ${order.status}: ${payment?.paymentId}`);
    }
    if (payment === undefined) continue;
    const { amountMinor, capturedMinor } = payment;
    if (amountMinor !== order.totalMinor || capturedMinor !== order.totalMinor) {
      breaches.push(`P6 order ${order.orderId} costs ${order.totalMinor}, paid ${capturedMinor}`);
    }
  }
  return breaches;
}

function refundBreaches(
  orders: ReadonlyMap<string, OrderRow>,
  payments: readonly PaymentRow[],
  refunds: readonly RefundRow[],
): string[] {
  const breaches: string[] = [];
  for (const { status, paymentId } of refunds) {
    if (status !== refundStatus.succeeded && status !== refundStatus.failed) {
      breaches.push(`P6 a refund of payment ${paymentId} is in state ${status}`);
    }
  }
  for (const payment of payments) {
    const done = refunds.filter(
      ({ paymentId, status }) =>
        paymentId === payment.paymentId && status === refundStatus.succeeded,
    );
    const sum = done.reduce((total, { amountMinor }) => total + amountMinor, 0n);
    if (sum > payment.capturedMinor) {
      breaches.push(`P6 payment ${payment.paymentId}: ${sum} of ${payment.capturedMinor} back`);
    }
    const isSurplus = payment.settlement === settlement.surplus;
    if (isSurplus && (done.length !== 1 || sum !== payment.capturedMinor)) {
      breaches.push(`P6 surplus payment ${payment.paymentId} has ${done.length} refunds of ${sum}`);
    }
    const order = orders.get(payment.orderId);
    if (payment.settlement === settlement.recorded && order?.refundedMinor !== sum) {
      breaches.push(`P6 order ${payment.orderId} says ${order?.refundedMinor} back, not ${sum}`);
    }
    const isWhole = order !== undefined && order.refundedMinor === order.totalMinor;
    if (order?.status === orderStatus.refunded && !isWhole) {
      breaches.push(`P6 order ${payment.orderId} is REFUNDED with ${order.refundedMinor} back`);
    }
  }
  return breaches;
}

/** The ledger says SOLD for what was paid; only a REFUNDED order's units may be on sale again. */
async function soldBreaches(pool: Pool, orders: ReadonlyMap<string, OrderRow>): Promise<string[]> {
  const breaches: string[] = [];
  const [rows] = await pool.query('SELECT order_id, state FROM stock_holds');
  for (const { order_id: orderId, state } of rows as Record<string, unknown>[]) {
    const order = orders.get(String(orderId));
    const isSold = state === holdState.sold;
    const isRestocked = state === holdState.restocked;
    const paid = order !== undefined && wasPaid(order);
    if (paid && !isSold && !isRestocked) breaches.push(`P7 order ${orderId} is paid, not SOLD`);
    if (!paid && (isSold || isRestocked)) breaches.push(`P6 order ${orderId} is SOLD, not paid`);
    if (isRestocked && order?.status !== orderStatus.refunded) {
      breaches.push(`P6 order ${orderId} is restocked, not REFUNDED`);
    }
  }
  return breaches;
}

async function warehouseBreaches(
  pool: Pool,
  orders: ReadonlyMap<string, OrderRow>,
): Promise<string[]> {
  const [rows] = await pool.query(
    `SELECT order_id, MIN(version) AS low, MAX(version) AS high, MAX(order_refunded_minor) AS back
     FROM order_line_facts GROUP BY order_id`,
  );
  const facts = new Map(
    (rows as Record<string, unknown>[]).map((row) => [String(row.order_id), row]),
  );
  const breaches: string[] = [];
  for (const { orderId, version, refundedMinor } of orders.values()) {
    const fact = facts.get(orderId);
    const isSame = fact?.low === version && fact.high === version;
    if (!isSame || BigInt(fact.back as string) !== refundedMinor) {
      breaches.push(`P7 the warehouse has ${JSON.stringify(fact)} of ${orderId} at ${version}`);
    }
  }
  if (facts.size > orders.size) breaches.push('P7 the warehouse has orders that do not exist');
  return breaches;
}

async function statisticsBreaches(
  pool: Pool,
  orders: ReadonlyMap<string, OrderRow>,
): Promise<string[]> {
  const expected = new Map<string, Record<string, bigint>>();
  for (const order of orders.values()) {
    const figures = expected.get(order.userId) ?? { orders: 0n, paid: 0n, back: 0n, cancelled: 0n };
    figures.orders = (figures.orders ?? 0n) + 1n;
    if (wasPaid(order)) figures.paid = (figures.paid ?? 0n) + order.totalMinor;
    figures.back = (figures.back ?? 0n) + order.refundedMinor;
    if (order.status === orderStatus.cancelled) figures.cancelled = (figures.cancelled ?? 0n) + 1n;
    expected.set(order.userId, figures);
  }
  const [rows] = await pool.query(
    'SELECT user_id, orders, paid_minor, refunded_minor, cancelled FROM user_statistics',
  );
  const breaches: string[] = [];
  for (const row of rows as Record<string, string>[]) {
    const user = String(row.user_id);
    const figures = expected.get(user);
    expected.delete(user);
    const isSame =
      BigInt(row.orders as string) === figures?.orders &&
      BigInt(row.paid_minor as string) === figures.paid &&
      BigInt(row.refunded_minor as string) === figures.back &&
      BigInt(row.cancelled as string) === figures.cancelled;
    if (!isSame) breaches.push(`P7 statistics of user ${user}: ${JSON.stringify(row)}`);
  }
  for (const user of expected.keys()) breaches.push(`P7 user ${user} has no statistics`);
  return breaches;
}

async function mailBreaches(pool: Pool, orders: ReadonlyMap<string, OrderRow>): Promise<string[]> {
  const [rows] = await pool.query('SELECT order_id, sent_time FROM confirmation_mails');
  const sent = new Set<string>();
  const breaches: string[] = [];
  for (const row of rows as Record<string, unknown>[]) {
    if (row.sent_time !== null) sent.add(String(row.order_id));
  }
  for (const order of orders.values()) {
    if (wasPaid(order) !== sent.has(order.orderId)) {
      breaches.push(`P7 order ${order.orderId} in state ${order.status}: no mail, or one too many`);
    }
  }
  return breaches;
}

async function readOrderRows(pools: readonly Pool[]): Promise<Map<string, OrderRow>> {
  const orders = new Map<string, OrderRow>();
  for (const pool of pools) {
    const [tables] = await pool.query("SHOW TABLES LIKE 'orders\\_%'");
    for (const table of (tables as Record<string, string>[]).flatMap((row) => Object.values(row))) {
      const [rows] = await pool.query(
        `SELECT order_id, user_id, status, version, total_minor, refunded_minor, payment_id,
           status = ${orderStatus.pending} AND expire_time < UTC_TIMESTAMP(3) AS overdue
         FROM ${table} WHERE status <> ${orderStatus.aborted}`,
      );
      for (const row of rows as Record<string, unknown>[]) {
        orders.set(String(row.order_id), {
          orderId: String(row.order_id),
          userId: String(row.user_id),
          status: row.status as number,
          version: row.version as number,
          totalMinor: BigInt(row.total_minor as string),
          refundedMinor: BigInt(row.refunded_minor as string),
          paymentId: String(row.payment_id),
          overdue: Number(row.overdue) === 1,
        });
      }
    }
  }
  return orders;
}

async function readPayments(pool: Pool): Promise<PaymentRow[]> {
  const [rows] = await pool.query(
    `SELECT payment_id, order_id, status, settlement, amount_minor,
       COALESCE(captured_minor, 0) AS captured_minor FROM payments`,
  );
  return (rows as Record<string, unknown>[]).map((row) => ({
    paymentId: String(row.payment_id),
    orderId: String(row.order_id),
    status: row.status as number,
    settlement: row.settlement as number,
    amountMinor: BigInt(row.amount_minor as string),
    capturedMinor: BigInt(row.captured_minor as string),
  }));
}

async function readRefunds(pool: Pool): Promise<RefundRow[]> {
  const [rows] = await pool.query('SELECT payment_id, amount_minor, status FROM refunds');
  return (rows as Record<string, unknown>[]).map((row) => ({
    paymentId: String(row.payment_id),
    amountMinor: BigInt(row.amount_minor as string),
    status: row.status as number,
  }));
}
