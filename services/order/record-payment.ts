import {
  PaymentRecord,
  type RecordPaymentRequest,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { invalidRequest } from '../runtime/refusals.ts';
import type { ChangeOrder } from './change-order.ts';
import type { Decision } from './change-transaction.ts';
import { type CurrentOrder, decideRecordPayment, stepOf } from './order-changes.ts';

const { PAYMENT_RECORD_RECORDED: recorded, PAYMENT_RECORD_ORDER_CLOSED: closed } = PaymentRecord;

/**
 * Tells an order that a payment succeeded. RECORDED if and only if the order names this payment,
 * whatever state it has reached, so that the call may be repeated until it is answered.
 *
 * @throws Refusal NOT_FOUND, INVALID_REQUEST (the amount is not the order's), OVERLOADED,
 *   DEPENDENCY_DOWN, OUTCOME_UNKNOWN
 */
export type RecordPayment = (
  request: RecordPaymentRequest,
  deadline: Deadline,
) => Promise<PaymentRecord>;

export function createRecordPayment(changeOrder: ChangeOrder): RecordPayment {
  return async (request, deadline) => {
    const { orderId } = request;
    const { answer } = await changeOrder(
      {
        name: 'record_payment',
        orderId,
        userId: 0n,
        decide: (current) => decide(current, request),
      },
      deadline,
    );
    return answer;
  };
}

function decide(
  current: CurrentOrder,
  { paymentId, amount }: RecordPaymentRequest,
): Decision<PaymentRecord> {
  switch (decideRecordPayment(current, { paymentId, amount })) {
    case 'amountDiffers':
      throw invalidRequest([{ field: 'amount', description: 'Send the total of the order.' }]);
    case 'pays': {
      const step = { ...stepOf('pay', current.order.status), paymentId };
      return { steps: [step], answer: recorded };
    }
    case 'recorded':
      return { answer: recorded };
    case 'closed':
      return { answer: closed };
  }
}
