import type { Payment as PaymentMessage } from '../../gen/sluice/payment/v1/payment.ts';
import {
  CloseResult,
  type HandleWebhookRequest,
  type HandleWebhookResult,
  PaymentServiceDefinition,
  type PaymentServiceImplementation,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import type { Deadline } from '../runtime/deadline.ts';
import type { DeadlineContext } from '../runtime/grpc-deadline.ts';
import { encodeWhole } from '../runtime/grpc-messages.ts';
import { type ServerService, service } from '../runtime/grpc-server.ts';
import type { Log } from '../runtime/log.ts';
import { toRefusalMessage } from '../runtime/refusal-status.ts';
import { Refusal, type RefusalReason, refusalTable } from '../runtime/refusals.ts';
import type { ClosePayment } from './close-payment.ts';
import type { CreatePayment } from './create-payment.ts';
import type { HandleWebhook } from './handle-webhook.ts';
import type { Payment } from './payment.ts';
import type { PaymentDatabase } from './payment-database.ts';
import { paymentMessage, refundMessage } from './payment-message.ts';
import type { PaymentMetrics } from './payment-metrics.ts';
import {
  attemptOf,
  rawWebhookOf,
  refundWishOf,
  requireBatch,
  requireName,
  requireOrderId,
} from './payment-requests.ts';
import { readPayment, readPaymentsOfOrder } from './payment-store.ts';
import type { RefundUseCases } from './refund-payment.ts';
import { readRefunds } from './refund-store.ts';

export interface PaymentServerOptions {
  readonly database: PaymentDatabase;
  readonly createPayment: CreatePayment;
  readonly closePayment: ClosePayment;
  readonly refunds: RefundUseCases;
  readonly webhooks: Pick<HandleWebhook, 'handle'>;
  readonly metrics: Pick<PaymentMetrics, 'created'>;
  readonly log: Log;
}

/** Turns calls into use cases: checks what came in, and answers what came of it. */
export function createPaymentService(options: PaymentServerOptions): ServerService {
  const { database, createPayment, closePayment, refunds, webhooks, metrics } = options;
  const implementation: PaymentServiceImplementation<DeadlineContext> = {
    async createPayment(request, { deadline }) {
      try {
        const payment = await createPayment(attemptOf(request), deadline);
        const [message] = await messagesOf(database, [payment], deadline);
        metrics.created.inc({ status: 'success' });
        return { payment: message };
      } catch (error) {
        metrics.created.inc({ status: statusOf(error) });
        throw error;
      }
    },

    async getPayment({ paymentId, userId }, { deadline }) {
      requireName('payment_id', paymentId, userId);
      const payment = await readPayment(database, paymentId, deadline);
      if (payment === undefined || isOfAnother(payment, userId)) {
        throw new Refusal('NOT_FOUND', 'There is no such payment');
      }
      const [message] = await messagesOf(database, [payment], deadline);
      return { payment: message };
    },

    async listPayments({ orderId, userId }, { deadline }) {
      requireName('order_id', orderId, userId);
      const payments = await readPaymentsOfOrder(database, orderId, deadline);
      const own = payments.filter((payment) => !isOfAnother(payment, userId));
      return { payments: await messagesOf(database, own, deadline) };
    },

    async closePayment({ orderId, inBackground }, { deadline }) {
      requireOrderId(orderId);
      const result = await closePayment(orderId, inBackground ? 'expire' : 'void', deadline);
      return { result: CloseResult[`CLOSE_RESULT_${result}`] };
    },

    async refundPayment(request, { deadline }) {
      const wish = refundWishOf(request);
      const refund = await refunds.refundPayment(request.paymentId, wish, deadline);
      return { refund: refundMessage(refund) };
    },

    async refundOrder({ orderId }, { deadline }) {
      requireOrderId(orderId);
      return { refund: refundMessage(await refunds.refundOrder(orderId, deadline)) };
    },

    async handleWebhook(request, { deadline }) {
      return { duplicate: await webhooks.handle(rawWebhookOf(request), deadline) };
    },

    async batchHandleWebhooks(request, { deadline }) {
      requireBatch(request);
      const results = request.requests.map((webhook) => handleOne(options, webhook, deadline));
      return { results: await Promise.all(results) };
    },
  };
  const whole = ['handleWebhook', 'batchHandleWebhooks'];
  const definition = encodeWhole(PaymentServiceDefinition, whole);
  return service(definition, implementation, { adminOnly: ['refundPayment'] });
}

/** One webhook of a batch, which carries a refusal as an answer. What else went wrong may have struck after the commit. */
async function handleOne(
  { webhooks, log }: Pick<PaymentServerOptions, 'webhooks' | 'log'>,
  request: HandleWebhookRequest,
  deadline: Deadline,
): Promise<HandleWebhookResult> {
  try {
    const duplicate = await webhooks.handle(rawWebhookOf(request), deadline);
    return { outcome: { $case: 'handled', value: { duplicate } } };
  } catch (error) {
    const refusal = error instanceof Refusal ? error : new Refusal('OUTCOME_UNKNOWN');
    if (refusal !== error) log.error({ err: error }, 'taking in a webhook failed unexpectedly');
    return { outcome: { $case: 'refusal', value: toRefusalMessage(refusal) } };
  }
}

async function messagesOf(
  database: PaymentDatabase,
  payments: readonly Payment[],
  deadline: Deadline,
): Promise<PaymentMessage[]> {
  // Only what was paid can have gone back.
  const paid = payments.filter(({ captured }) => captured !== undefined);
  const ids = paid.map(({ paymentId }) => paymentId);
  const refunds = Map.groupBy(await readRefunds(database, ids, deadline), (one) => one.paymentId);
  return payments.map((payment) => paymentMessage(payment, refunds.get(payment.paymentId)));
}

function isOfAnother(payment: Payment, userId: bigint): boolean {
  return userId !== 0n && payment.userId !== userId;
}

/** What the metric says of a request that was not answered with a payment. */
function statusOf(error: unknown): 'rejected' | 'failed' | 'unknown' {
  const reason: RefusalReason | undefined = error instanceof Refusal ? error.reason : undefined;
  if (reason === 'OUTCOME_UNKNOWN') return 'unknown';
  return reason !== undefined && refusalTable[reason].business ? 'rejected' : 'failed';
}
