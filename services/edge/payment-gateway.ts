import { Metadata } from 'nice-grpc';
import type { Payment, Refund } from '../../gen/sluice/payment/v1/payment.ts';
import {
  type CreatePaymentRequest,
  type HandleWebhookRequest,
  type HandleWebhookResult,
  PaymentServiceDefinition,
  type RefundPaymentRequest,
} from '../../gen/sluice/payment/v1/payment_service.ts';
import { Batcher, type BatcherMetrics } from '../runtime/batcher.ts';
import { Deadline } from '../runtime/deadline.ts';
import {
  type CallPolicy,
  createGrpcClient,
  type GrpcClientOptions,
} from '../runtime/grpc-client.ts';
import { encodeWhole } from '../runtime/grpc-messages.ts';
import { fromRefusalMessage } from '../runtime/refusal-status.ts';
import { Refusal } from '../runtime/refusals.ts';
import { answeringInRequestFields, inRequestFields } from './request-fields.ts';

const readDeadlineMs = 1_000;
/** Opening a session asks order and the provider; this leaves the route time to answer. */
const createDeadlineMs = 3_500;
/** A refund is only noted down here; the provider is asked later. */
const refundDeadlineMs = 3_000;
/** Providers wait some seconds for an answer and then repeat the webhook. */
const webhookDeadlineMs = 3_000;
/** Payment takes in this many webhooks in one call. */
const batchEntriesMax = 100;
/** Payment takes as many bytes of bodies; a message may have twice that. */
const batchBytesMax = 1_024 * 1_024;
/** Two keep payment busy while an answer travels; more would only make batches smaller. */
const batchesInFlightMax = 2;
/** Tags, lengths and the provider's name of a webhook, and the tags and lengths of one header, at most. */
const webhookBytesExtra = 60;
const headerBytesExtra = 16;

const read = { deadlineMs: readDeadlineMs, retry: true, readOnly: true, breaker: 'payment.read' };

/** How the edge calls the payment service. */
const callTable = {
  createPayment: { deadlineMs: createDeadlineMs, retry: true, breaker: 'payment.create' },
  getPayment: read,
  listPayments: read,
  refundPayment: { deadlineMs: refundDeadlineMs, retry: true, breaker: 'payment.refund' },
  // Not tried again here: the provider does that, with more patience.
  batchHandleWebhooks: { deadlineMs: webhookDeadlineMs, breaker: 'payment.webhook' },
} as const satisfies Record<string, CallPolicy>;

/** The payment service as the edge sees it; every error is a Refusal. */
export interface PaymentGateway {
  create(request: CreatePaymentRequest): Promise<Payment>;
  /** @param userId 0 reads any user's payment */
  get(paymentId: bigint, userId: bigint): Promise<Payment>;
  list(orderId: bigint, userId: bigint): Promise<Payment[]>;
  /** Forwards the operator's own token, which payment checks again. */
  refund(request: RefundPaymentRequest, token: string): Promise<Refund>;
  /** Hands the webhook to the next batch; whether the event had been taken in before. */
  webhook(request: HandleWebhookRequest): Promise<boolean>;
  /** Webhooks that wait for a batch or for its answer. */
  waiting(): number;
  /** Answers the webhooks that were taken in, then closes the connection. */
  close(): Promise<void>;
}

export interface PaymentGatewayOptions extends Omit<GrpcClientOptions<never>, 'callTable'> {
  /** Webhooks that may wait for a place in a batch. */
  readonly webhooksMax: number;
  readonly batcherMetrics: BatcherMetrics;
}

export function createPaymentGateway(options: PaymentGatewayOptions): PaymentGateway {
  const definition = encodeWhole(PaymentServiceDefinition, ['batchHandleWebhooks']);
  const grpc = createGrpcClient(definition, { ...options, callTable });
  const client = answeringInRequestFields(grpc.client);
  const webhooks = new Batcher<HandleWebhookRequest, boolean>({
    name: 'edge_to_payment',
    entriesMax: batchEntriesMax,
    bytesMax: batchBytesMax,
    sizeOf: bytesOnTheWire,
    inFlightMax: batchesInFlightMax,
    queueDepthMax: options.webhooksMax,
    // An answer that is lost makes the provider repeat the webhook.
    afterSend: 'OUTCOME_UNKNOWN',
    metrics: options.batcherMetrics,
    async run(requests, { deadline }) {
      const { results } = await client.batchHandleWebhooks({ requests }, { deadline });
      return results.map(duplicateOf);
    },
  });
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
    webhook: (request) => webhooks.add(request, Deadline.after(webhookDeadlineMs)),
    waiting: () => webhooks.size,
    async close() {
      await webhooks.close();
      grpc.close();
    },
  };
}

/** No less than a webhook takes: its headers are counted twice, as some of their characters take two bytes. */
function bytesOnTheWire({ body, headers }: HandleWebhookRequest): number {
  let bytes = body.length + webhookBytesExtra;
  for (const name in headers) {
    bytes += 2 * (name.length + (headers[name] as string).length) + headerBytesExtra;
  }
  return bytes;
}

/** A result without an outcome comes from a newer peer: what it means is not known. */
function duplicateOf({ outcome }: HandleWebhookResult): boolean | Refusal {
  if (outcome?.$case === 'handled') return outcome.value.duplicate;
  if (outcome?.$case === 'refusal') return inRequestFields(fromRefusalMessage(outcome.value));
  return new Refusal('OUTCOME_UNKNOWN');
}

function present<Message>(message: Message | undefined): Message {
  if (message !== undefined) return message;
  throw new Error('the payment service answered without what was asked for');
}
