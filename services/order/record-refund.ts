import type { Order } from '../../gen/sluice/order/v1/order.ts';
import type { RecordRefundRequest } from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { invalidRequest } from '../runtime/refusals.ts';
import type { ChangeOrder } from './change-order.ts';
import { decideRecordRefund } from './order-changes.ts';

/**
 * Tells an order how far the refunds of its payment are; progress that it knows already, or that is
 * older than what it knows, is answered with the order unchanged.
 *
 * @throws Refusal NOT_FOUND, INVALID_REQUEST (not its payment, not its currency, or more than was
 *   paid), OVERLOADED, DEPENDENCY_DOWN, OUTCOME_UNKNOWN
 */
export type RecordRefund = (request: RecordRefundRequest, deadline: Deadline) => Promise<Order>;

export function createRecordRefund(changeOrder: ChangeOrder): RecordRefund {
  return async (request, deadline) => {
    const { order } = await changeOrder(
      {
        name: 'record_refund',
        orderId: request.orderId,
        userId: 0n,
        decide(current) {
          const decided = decideRecordRefund(current, request);
          if (decided.kind === 'invalid') throw invalidRequest([decided]);
          return { steps: decided.steps, answer: undefined };
        },
      },
      deadline,
    );
    return order;
  };
}
