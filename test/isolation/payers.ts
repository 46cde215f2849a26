import { setTimeout as sleep } from 'node:timers/promises';
import type { CallOptions } from 'nice-grpc';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  type Payment,
  PaymentSettlement,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { fromClientError } from '../../services/runtime/refusal-status.ts';
import { paySession } from '../support/life-workload.ts';
import type { System } from '../support/system.ts';
import { attemptOf } from './buyers.ts';
import type { Attempt, Group } from './harness.ts';

/** An order whose payment has begun. */
export interface BegunOrder {
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly payment: Payment;
}

export interface PayersOptions {
  readonly system: System;
  readonly skuId: bigint;
  readonly perSecond: number;
}

/** What a buyer waits for one answer. */
const callMs = 4_000;
/** What happens by itself, as an expiry or a refund, happens within this. */
const byItselfMs = 15_000;
const lookMs = 50;
let users = 0n;

/** One order of a new user. */
export async function makeOrder(system: System, skuId: bigint) {
  users += 1n;
  const lines = [{ skuId, quantity: 1 }];
  const request = { userId: users, requestId: `order-${users}`, lines };
  const { order } = await system.order(Number(users % 2n)).createOrder(request, callOptions());
  return { orderId: order?.orderId ?? 0n, userId: request.userId };
}

/** One order of a new user, and the page to pay it. */
export async function beginOrder(system: System, skuId: bigint): Promise<BegunOrder> {
  const order = await makeOrder(system, skuId);
  const { payment } = await system
    .payment()
    .createPayment({ ...order, requestId: 'first' }, callOptions());
  if (!payment?.paymentUrl) throw new Error(`payment ${payment?.paymentId} has no page`);
  return { ...order, payment };
}

/** So many of them, a few at a time. */
export async function beginOrders(
  system: System,
  skuId: bigint,
  count: number,
): Promise<BegunOrder[]> {
  const begun: BegunOrder[] = [];
  const one = async (): Promise<void> => {
    while (begun.length < count) begun.push(await beginOrder(system, skuId));
  };
  await Promise.all(Array.from({ length: 8 }, one));
  return begun;
}

/** Buyers who order and want to pay. */
export function payers({ system, skuId, perSecond }: PayersOptions): Group {
  return {
    perSecond,
    send: () => attemptTo(async () => void (await beginOrder(system, skuId))),
  };
}

/** Buyers who cancel what they have begun to pay. @param begun made before, or undefined to make them now */
export function cancellers(options: PayersOptions, begun?: readonly BegunOrder[]): Group {
  const { system, skuId, perSecond } = options;
  return {
    perSecond,
    send: (number) =>
      attemptTo(async () => {
        const order = begun ? takeOne(begun, number) : await beginOrder(system, skuId);
        await cancel(system, order);
      }),
  };
}

/** Cancels an order; answers when it is CANCELLED. */
export async function cancel(
  system: System,
  { orderId, userId }: Pick<BegunOrder, 'orderId' | 'userId'>,
): Promise<void> {
  const client = system.order(Number(userId % 2n));
  const { order } = await client.cancelOrder({ orderId, userId }, callOptions());
  if (order?.status !== OrderStatus.ORDER_STATUS_CANCELLED) throw new Error(`is ${order?.status}`);
}

/** Orders whose time is over although their payment has begun. @param begun as for `cancellers` */
export function expiries(options: PayersOptions, begun?: readonly BegunOrder[]): Group {
  const { system, skuId, perSecond } = options;
  return {
    perSecond,
    send: (number) =>
      attemptTo(async () => {
        const order = begun ? takeOne(begun, number) : await beginOrder(system, skuId);
        await endTime(system, [order]);
        await untilCancelled(system, order);
      }),
  };
}

/** Money that goes back: orders that are paid, and refunded in part. */
export function refunds({ system, skuId, perSecond }: PayersOptions): Group {
  return {
    perSecond,
    send: () =>
      attemptTo(async () => {
        const paid = await payOne(system, await beginOrder(system, skuId));
        await refund(system, paid);
        await untilPayment(
          system,
          paid,
          (payment) => payment.refunds[0]?.status === RefundStatus.REFUND_STATUS_SUCCEEDED,
        );
      }),
  };
}

/** Pays an order at its page, and waits until order knows. */
export async function payOne(system: System, begun: BegunOrder): Promise<BegunOrder> {
  await paySession(system, begun.payment.providerReference);
  await untilPayment(
    system,
    begun,
    ({ settlement }) => settlement === PaymentSettlement.PAYMENT_SETTLEMENT_RECORDED,
  );
  return begun;
}

/** An operator gives a part back. */
export async function refund(system: System, { payment }: BegunOrder): Promise<void> {
  const { paymentId } = payment;
  const amount = { currencyCode: 'EUR', minorUnits: 100n };
  const request = { paymentId, amount, requestId: 'part', reason: 'a test', restock: false };
  await system.payment().refundPayment(request, callOptions());
}

/** Ends the time of orders, wherever they are. */
export async function endTime(
  system: System,
  orders: readonly Pick<BegunOrder, 'orderId'>[],
): Promise<void> {
  const ids = orders.map(({ orderId }) => orderId);
  const ending = system.orderPools.flatMap((pool) =>
    ['00', '01'].map((table) =>
      pool.query(
        `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) WHERE order_id IN (${ids}) AND status = 1`,
      ),
    ),
  );
  await Promise.all(ending);
}

/** @throws Error if it is not CANCELLED in time */
export async function untilCancelled(
  system: System,
  { orderId }: Pick<BegunOrder, 'orderId'>,
): Promise<void> {
  await untilSeen(async () => {
    const { order } = await system.order().getOrder({ orderId, userId: 0n }, callOptions());
    return order?.status === OrderStatus.ORDER_STATUS_CANCELLED;
  }, 'it is not closed');
}

async function untilPayment(
  system: System,
  { payment: { paymentId } }: BegunOrder,
  isWanted: (payment: Payment) => boolean,
): Promise<void> {
  await untilSeen(async () => {
    const { payment } = await system.payment().getPayment({ paymentId, userId: 0n }, callOptions());
    return payment !== undefined && isWanted(payment);
  }, 'the payment is not as it should be');
}

async function untilSeen(look: () => Promise<boolean>, otherwise: string): Promise<void> {
  const untilMs = performance.now() + byItselfMs;
  while (!(await look())) {
    if (performance.now() > untilMs) throw new Error(otherwise);
    await sleep(lookMs);
  }
}

async function attemptTo(work: () => Promise<void>): Promise<Attempt> {
  try {
    await work();
    return { outcome: 'made' };
  } catch (error) {
    // What happens by itself and did not has no refusal to tell.
    if (!(error as { code?: unknown }).code) return { outcome: 'unknown', reason: String(error) };
    return attemptOf(fromClientError(error).reason);
  }
}

function takeOne(begun: readonly BegunOrder[], number: number): BegunOrder {
  const one = begun[number];
  if (one === undefined) throw new Error(`only ${begun.length} orders were prepared`);
  return one;
}

export function callOptions(): CallOptions {
  return { signal: AbortSignal.timeout(callMs) };
}
