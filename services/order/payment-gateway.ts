import {
  CloseResult,
  PaymentServiceDefinition,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import { failpoints } from '../runtime/failpoints.ts';
import { createGrpcClient } from '../runtime/grpc-client.ts';
import type { Log } from '../runtime/log.ts';
import { Refusal } from '../runtime/refusals.ts';

/**
 * How the sessions of an order ended. CLOSED: none can be paid any more. PAID: one was paid, and the order will be told.
 * PROCESSING: the bank has not decided on one, and it cannot be voided meanwhile; the others are void.
 */
export type ClosedPayment = 'CLOSED' | 'PAID' | 'PROCESSING';

/** The order service's way to payment. */
export interface PaymentGateway {
  /**
   * Voids the sessions of an order.
   *
   * @param whoWaits `buyer`, or `nobody` because only the order's time is over: those never hold up a buyer
   * @throws Refusal; asking again does no harm
   */
  closePayment(
    orderId: bigint,
    deadline: Deadline,
    whoWaits: 'buyer' | 'nobody',
  ): Promise<ClosedPayment>;
  /** Whether payment would be asked now to close what nobody waits for: not while that circuit is open. */
  takesBackground(): boolean;
  /**
   * Has payment give back what is left of the payment that paid an order; durable once answered.
   *
   * @returns false if payment does not know yet that the order was paid
   * @throws Refusal; asking again does no harm
   */
  refundOrder(orderId: bigint, deadline: Deadline): Promise<boolean>;
  close(): void;
}

export interface PaymentGatewayOptions {
  readonly addresses: readonly string[];
  readonly log: Log;
  readonly breakerState?: import('prom-client').Gauge<'name'>;
}

const callTable = {
  closePayment: { deadlineMs: 5_000, retry: true, breaker: 'payment.close' },
  refundOrder: { deadlineMs: 3_000, retry: true, breaker: 'payment.refund' },
} as const;
/** What nobody waits for has a connection and a circuit of its own, so that its failures are not the buyers'. */
const backgroundCallTable = {
  closePayment: { deadlineMs: 4_000, retry: true, breaker: 'payment.expire' },
} as const;

/** Connects when payment is there; nothing but these calls needs it. */
export function connectPayment(options: PaymentGatewayOptions): PaymentGateway {
  const { addresses, log, breakerState } = options;
  const common = { addresses, log, ...(breakerState ? { breakerState } : {}) };
  const payment = createGrpcClient(PaymentServiceDefinition, { ...common, callTable });
  const background = createGrpcClient(PaymentServiceDefinition, {
    ...{ ...common, callTable: backgroundCallTable },
  });
  return {
    async closePayment(orderId, deadline, whoWaits) {
      if (failpoints.on) await failpoints.hit('order.before_close_payment', { orderId });
      const inBackground = whoWaits === 'nobody';
      const { client } = inBackground ? background : payment;
      const { result } = await client.closePayment({ orderId, inBackground }, { deadline });
      if (failpoints.on) await failpoints.hit('order.after_close_payment', { orderId });
      if (result === CloseResult.CLOSE_RESULT_CLOSED) return 'CLOSED';
      if (result === CloseResult.CLOSE_RESULT_PAID) return 'PAID';
      if (result === CloseResult.CLOSE_RESULT_PROCESSING) return 'PROCESSING';
      throw new Refusal('OUTCOME_UNKNOWN', `Payment answered ${result} to a close`);
    },
    takesBackground: () => background.breaker('payment.expire')?.open !== true,
    async refundOrder(orderId, deadline) {
      if (failpoints.on) await failpoints.hit('order.before_refund_order', { orderId });
      try {
        await payment.client.refundOrder({ orderId }, { deadline });
      } catch (error) {
        if (error instanceof Refusal && error.reason === 'NOT_FOUND') return false;
        throw error;
      }
      if (failpoints.on) await failpoints.hit('order.after_refund_order', { orderId });
      return true;
    },
    close() {
      payment.close();
      background.close();
    },
  };
}
