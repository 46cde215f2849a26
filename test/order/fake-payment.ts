import {
  CloseResult,
  PaymentServiceDefinition,
  type PaymentServiceImplementation,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import type { ClosedPayment } from '../../services/order/payment-gateway.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

/** Payment's side of closing and cancelling, behind a real gRPC server: tests script its answers. */
export interface FakePayment {
  readonly address: string;
  /** Orders whose sessions it was asked to void, in order, repeats included. */
  readonly closed: bigint[];
  /** Orders that it was asked to refund, in order, repeats included. */
  readonly refunded: bigint[];
  /** Answers a close, unless it throws; CLOSED by default. */
  onClose: (orderId: bigint) => Promise<ClosedPayment> | ClosedPayment;
  /** Answers a refund: whether a payment of the order is recorded; true by default. */
  onRefund: (orderId: bigint) => Promise<boolean> | boolean;
  stop(): Promise<void>;
}

export async function startFakePayment(port = 0): Promise<FakePayment> {
  const payment: FakePayment = {
    address: '',
    closed: [],
    refunded: [],
    onClose: () => 'CLOSED',
    onRefund: () => true,
    stop: async () => undefined,
  };
  const implementation: Partial<PaymentServiceImplementation<DeadlineContext>> = {
    async closePayment({ orderId }) {
      payment.closed.push(orderId);
      const result = await payment.onClose(orderId);
      return { result: CloseResult[`CLOSE_RESULT_${result}`] };
    },
    async refundOrder({ orderId }) {
      payment.refunded.push(orderId);
      if (await payment.onRefund(orderId)) return {};
      throw new Refusal('NOT_FOUND', 'No payment of the order is recorded');
    },
  };
  const unimplemented = async (): Promise<never> => {
    throw new Error('not part of the fake');
  };
  const full = {
    createPayment: unimplemented,
    getPayment: unimplemented,
    listPayments: unimplemented,
    refundPayment: unimplemented,
    handleWebhook: unimplemented,
    batchHandleWebhooks: unimplemented,
    ...implementation,
  } as PaymentServiceImplementation<DeadlineContext>;
  const server = await startGrpcServer({
    host: '127.0.0.1',
    port,
    services: [service(PaymentServiceDefinition, full)],
    log: createLog('fake-payment', 'silent'),
    inFlightMax: 1_000,
  });
  return Object.assign(payment, { address: `127.0.0.1:${server.port}`, stop: () => server.stop() });
}
