import { Metadata } from 'nice-grpc';
import type { Payment, Refund } from '../../gen/sluice/payment/v1/payment.ts';
import {
  type CreatePaymentRequest,
  type HandleWebhookRequest,
  PaymentServiceDefinition,
  type RefundPaymentRequest,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import {
  type CallPolicy,
  createGrpcClient,
  type GrpcClientOptions,
} from '../runtime/grpc-client.ts';
import { encodeWhole } from '../runtime/grpc-messages.ts';
import { answeringInRequestFields } from './request-fields.ts';

const readDeadlineMs = 1_000;
/** Opening a session asks order and the provider; this leaves the route time to answer. */
const createDeadlineMs = 3_500;
/** A refund is only noted down here; the provider is asked later. */
const refundDeadlineMs = 3_000;
/** Providers wait some seconds for an answer and then repeat the webhook. */
const webhookDeadlineMs = 3_000;

const read = { deadlineMs: readDeadlineMs, retry: true, readOnly: true, breaker: 'payment.read' };

/** How the edge calls the payment service. */
const callTable = {
  createPayment: { deadlineMs: createDeadlineMs, retry: true, breaker: 'payment.create' },
  getPayment: read,
  listPayments: read,
  refundPayment: { deadlineMs: refundDeadlineMs, retry: true, breaker: 'payment.refund' },
  // Not tried again here: the provider does that, with more patience.
  handleWebhook: { deadlineMs: webhookDeadlineMs, breaker: 'payment.webhook' },
} as const satisfies Record<string, CallPolicy>;

/** The payment service as the edge sees it; every error is a Refusal. */
export interface PaymentGateway {
  create(request: CreatePaymentRequest): Promise<Payment>;
  /** @param userId 0 reads any user's payment */
  get(paymentId: bigint, userId: bigint): Promise<Payment>;
  list(orderId: bigint, userId: bigint): Promise<Payment[]>;
  /** Forwards the operator's own token, which payment checks again. */
  refund(request: RefundPaymentRequest, token: string): Promise<Refund>;
  /** Whether the event had been taken in before. */
  webhook(request: HandleWebhookRequest): Promise<boolean>;
  close(): void;
}

export function createPaymentGateway(
  options: Omit<GrpcClientOptions<never>, 'callTable'>,
): PaymentGateway {
  const definition = encodeWhole(PaymentServiceDefinition, ['handleWebhook']);
  const grpc = createGrpcClient(definition, { ...options, callTable });
  const client = answeringInRequestFields(grpc.client);
  return {
    create: async (request) => present((await client.createPayment(request)).payment),
    async get(paymentId, userId) {
      return present((await client.getPayment({ paymentId, userId })).payment);
    },
    async list(orderId, userId) {
      return (await client.listPayments({ orderId, userId })).payments;
    },
    async refund(request, token) {
      const metadata = Metadata({ authorization: `Bearer ${token}` });
      return present((await client.refundPayment(request, { metadata })).refund);
    },
    async webhook(request) {
      return (await client.handleWebhook(request)).duplicate;
    },
    close: grpc.close,
  };
}

function present<Message>(message: Message | undefined): Message {
  if (message !== undefined) return message;
  throw new Error('the payment service answered without what was asked for');
}
