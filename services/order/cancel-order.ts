import { setTimeout as sleep } from 'node:timers/promises';
import type { Order } from '../../gen/sluice/order/v1/order.ts';
import { OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { isBusinessRefusal, Refusal } from '../runtime/refusals.ts';
import type { ChangeOrder } from './change-order.ts';
import type { ChangedOrder } from './change-transaction.ts';
import type { OrderName } from './find-order.ts';
import { statusName } from './order.ts';
import { decideCancel, stepOf } from './order-changes.ts';
import type { ClosedPayment, PaymentGateway } from './payment-gateway.ts';

export interface CancelOrderOptions {
  readonly changeOrder: ChangeOrder;
  readonly payment: Pick<PaymentGateway, 'closePayment' | 'refundOrder'>;
}

/**
 * Closes an order for its buyer. One that is not paid is CANCELLED, after its session with the
 * provider was voided if there may be one; a paid one goes to REFUNDING once payment has the refund
 * on record. An order that is closed already, or is being refunded, is answered unchanged. One whose
 * payment the bank is processing can be neither now: ILLEGAL_TRANSITION.
 *
 * @throws Refusal NOT_FOUND, ILLEGAL_TRANSITION, OUTCOME_UNKNOWN, OVERLOADED, DEPENDENCY_DOWN
 */
export type CancelOrder = (name: OrderName, deadline: Deadline) => Promise<Order>;

type CancelEffect = ReturnType<typeof decideCancel>;

/** A payment that just succeeded is on its way from payment to order, or back, for so long. */
const settlePausesMs = [20, 50, 100, 200, 400, 400, 400, 400, 400, 400, 400, 400] as const;
const answerMsMin = 50;

export function createCancelOrder(options: CancelOrderOptions): CancelOrder {
  return async (name, deadline) => {
    const attempt = { hasEffect: false };
    try {
      return await close(options, name, attempt, deadline);
    } catch (error) {
      if (!attempt.hasEffect || !(error instanceof Refusal) || isBusinessRefusal(error))
        throw error;
      // Sessions are void, or money goes back: "nothing was done" would not be true any more.
      const message = 'The order is being closed: cancel it again';
      throw new Refusal('OUTCOME_UNKNOWN', message, { cause: error });
    }
  };
}

/** @param attempt is told once payment has done something for it */
async function close(
  { changeOrder, payment }: CancelOrderOptions,
  name: OrderName,
  attempt: { hasEffect: boolean },
  deadline: Deadline,
): Promise<Order> {
  let closed: ClosedPayment | undefined;
  for (const pauseMs of settlePausesMs) {
    const voided = closed === 'CLOSED';
    const { answer: effect, order } = await cancel(changeOrder, name, voided, deadline);
    if (effect === 'cancels' || effect === 'unchanged') return order;
    if (effect === 'voidFirst') {
      closed ??= await payment.closePayment(order.orderId, deadline, 'buyer');
      attempt.hasEffect = true;
      if (closed === 'PROCESSING') throw isProcessing();
      if (closed === 'CLOSED') continue;
    } else if (await payment.refundOrder(order.orderId, deadline)) {
      attempt.hasEffect = true;
      return await beginRefund(changeOrder, name, deadline);
    }
    // Order and payment do not agree yet that it is paid: the one will have told the other soon.
    if (deadline.leftMs() < pauseMs + answerMsMin) break;
    await sleep(pauseMs);
  }
  throw new Refusal('OUTCOME_UNKNOWN', 'A payment of the order is being recorded');
}

function isProcessing(): Refusal {
  const message =
    'A payment of the order is being processed by the bank and cannot be stopped: the order will be paid or closed by its outcome';
  return new Refusal('ILLEGAL_TRANSITION', message);
}

function cancel(
  changeOrder: ChangeOrder,
  { orderId, userId }: OrderName,
  voided: boolean,
  deadline: Deadline,
): Promise<ChangedOrder<CancelEffect>> {
  return changeOrder(
    {
      name: 'cancel',
      orderId,
      userId,
      decide(current) {
        const effect = decideCancel(current, { voided });
        const { status } = current.order;
        if (effect === 'illegal') {
          const message = `The order is ${statusName(status)} and cannot be cancelled`;
          throw new Refusal('ILLEGAL_TRANSITION', message);
        }
        return { steps: effect === 'cancels' ? [stepOf('cancel', status)] : [], answer: effect };
      },
    },
    deadline,
  );
}

/** Payment may have begun, or finished, meanwhile; then the order is answered as it is. */
async function beginRefund(
  changeOrder: ChangeOrder,
  { orderId, userId }: OrderName,
  deadline: Deadline,
): Promise<Order> {
  const { order } = await changeOrder(
    {
      name: 'begin_refund',
      orderId,
      userId,
      decide({ order: { status } }) {
        const paid = status === OrderStatus.ORDER_STATUS_PAID;
        return { steps: paid ? [stepOf('beginRefund', status)] : [], answer: undefined };
      },
    },
    deadline,
  );
  return order;
}
