import type { BeginPaymentResponse } from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { Refusal } from '../runtime/refusals.ts';
import type { ChangeOrder } from './change-order.ts';
import type { OrderName } from './find-order.ts';
import { statusName } from './order.ts';
import { decideBeginPayment } from './order-changes.ts';

/**
 * Notes that a session with the provider may be open from now on, so that the order is closed only
 * after the session was voided. Repeated, it answers the same.
 *
 * @throws Refusal NOT_FOUND, ILLEGAL_TRANSITION (not PENDING, its time is over, or it costs
 *   nothing), OVERLOADED, DEPENDENCY_DOWN, OUTCOME_UNKNOWN
 */
export type BeginPayment = (name: OrderName, deadline: Deadline) => Promise<BeginPaymentResponse>;

export function createBeginPayment(changeOrder: ChangeOrder): BeginPayment {
  return async ({ orderId, userId }, deadline) => {
    const { order, now } = await changeOrder(
      {
        name: 'begin_payment',
        orderId,
        userId,
        decide(current) {
          const decided = decideBeginPayment(current);
          if (decided === 'begins') return { beginsPayment: true, answer: undefined };
          const { status } = current.order;
          const messages = {
            free: 'The order costs nothing, and no payment of 0 can be made: cancel it',
            late: 'The time to pay the order is over',
            notPending: `The order is ${statusName(status)} and cannot be paid`,
          };
          throw new Refusal('ILLEGAL_TRANSITION', messages[decided]);
        },
      },
      deadline,
    );
    const expireMs = order.expireTime?.getTime() ?? 0;
    return { order, timeLeftMs: BigInt(Math.max(0, expireMs - now.getTime())) };
  };
}
