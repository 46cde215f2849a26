import {
  type Payment,
  PaymentStatus,
  type Refund,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import {
  type HandleWebhookRequest,
  type HandleWebhookResult,
  PaymentServiceDefinition,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import { type ServerService, service } from '../../services/runtime/grpc-server.ts';
import { toRefusalMessage } from '../../services/runtime/refusal-status.ts';
import { Refusal } from '../../services/runtime/refusals.ts';

const time = new Date('2027-01-02T03:04:05.678Z');

export const refund: Refund = {
  refundId: 3n,
  amount: { currencyCode: 'USD', minorUnits: 5n },
  status: RefundStatus.REFUND_STATUS_PENDING,
  reason: 'It was "broken"',
  restock: false,
  createTime: time,
  requestId: 'refund-1',
  failure: '',
  updateTime: time,
};

/** The one payment that the fake knows; it is of user 1001. */
export const payment: Payment = {
  paymentId: 9_007_199_254_740_993n,
  orderId: 9_007_199_254_740_995n,
  userId: 1_001n,
  status: PaymentStatus.PAYMENT_STATUS_PENDING,
  amount: { currencyCode: 'USD', minorUnits: 9_007_199_254_740_993n },
  provider: 'simulator',
  providerReference: '',
  paymentUrl: 'http://127.0.0.1:8090/pay?session=a"b',
  refunds: [],
  createTime: time,
  updateTime: time,
  settlement: 0,
  captured: undefined,
  failure: '',
  requestId: 'pay-1',
};

/** What the fake needs of the peers: where it notes what it was asked, and is told to refuse. */
interface Notes {
  note(method: string, request: unknown): void;
  readonly webhookBatches: number[];
  readonly hold: Promise<void> | undefined;
}

/** Payment over real gRPC, which remembers what it was asked; a webhook with the body `again` is a duplicate. */
export function fakePaymentService(peers: Notes): ServerService {
  const notUsed = async (): Promise<never> => {
    throw new Error('not used by the edge');
  };
  return service(
    PaymentServiceDefinition,
    {
      async createPayment(request) {
        peers.note('createPayment', request);
        return { payment: { ...payment, ...request } };
      },
      async getPayment({ paymentId, userId }) {
        peers.note('getPayment', { paymentId, userId });
        if (paymentId !== payment.paymentId || (userId !== 0n && userId !== payment.userId)) {
          throw new Refusal('NOT_FOUND', 'There is no such payment');
        }
        return { payment: { ...payment, refunds: [refund] } };
      },
      async listPayments({ orderId, userId }) {
        peers.note('listPayments', { orderId, userId });
        return { payments: userId === payment.userId ? [payment, payment] : [] };
      },
      async refundPayment(request) {
        peers.note('refundPayment', request);
        return { refund };
      },
      async batchHandleWebhooks({ requests }) {
        peers.webhookBatches.push(requests.length);
        await peers.hold;
        return { results: requests.map((request) => handled(peers, request)) };
      },
      handleWebhook: notUsed,
      closePayment: notUsed,
      refundOrder: notUsed,
    },
    { adminOnly: ['refundPayment'] },
  );
}

/** One with the body `forged` is refused. */
function handled(peers: Notes, request: HandleWebhookRequest): HandleWebhookResult {
  const body = Buffer.from(request.body).toString();
  try {
    peers.note('handleWebhook', request);
    if (body === 'forged') throw new Refusal('UNAUTHENTICATED', 'not genuine');
    return { outcome: { $case: 'handled', value: { duplicate: body === 'again' } } };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { outcome: { $case: 'refusal', value: toRefusalMessage(error) } };
  }
}
