import { OrderServiceDefinition } from '../../../gen/sluice/order/v1/order_service.ts';
import { PaymentServiceDefinition } from '../../../gen/sluice/payment/v1/payment_service.ts';
import { createGrpcClient } from '../../runtime/grpc-client.ts';
import type { Log } from '../../runtime/log.ts';
import { isBusinessRefusal } from '../../runtime/refusals.ts';
import { paymentName, settlementName, statusName } from '../audit/states.ts';
import type { OperatorConfig } from '../config.ts';
import { connectGates } from '../gates.ts';

/** What a running service answers now; or why it does not. */
export interface ServiceAnswer {
  readonly service: string;
  readonly answer: string;
}

const reading = { deadlineMs: 3_000, retry: true, readOnly: true };
const orderCalls = { getOrder: { ...reading, breaker: 'order.read' } } as const;
const paymentCalls = { listPayments: { ...reading, breaker: 'payment.read' } } as const;

/** Asks the services about an order and the gates of its SKUs. A service that is away is an answer too. */
export async function askServices(
  config: OperatorConfig,
  orderId: bigint,
  skuIds: readonly string[],
  log: Log,
): Promise<ServiceAnswer[]> {
  const order = createGrpcClient(OrderServiceDefinition, {
    addresses: config.orderAddresses,
    callTable: orderCalls,
    log,
  });
  const payment = createGrpcClient(PaymentServiceDefinition, {
    addresses: config.paymentAddresses,
    callTable: paymentCalls,
    log,
  });
  const gates = connectGates(config, log);
  const askOrder = async (): Promise<string> => {
    const { order: found } = await order.client.getOrder({ orderId, userId: 0n });
    return `GetOrder answers ${statusName(found?.status ?? 0)}, version ${found?.version}`;
  };
  const askPayment = async (): Promise<string> => {
    const { payments } = await payment.client.listPayments({ orderId, userId: 0n });
    const each = payments.map(({ paymentId, status, settlement }) => {
      const settled = settlement ? ` ${settlementName(settlement)}` : '';
      return `${paymentId} ${paymentName(status)}${settled}`;
    });
    return `ListPayments answers ${each.length === 0 ? 'none' : each.join('; ')}`;
  };
  const askGate = async (skuId: string): Promise<string> => {
    const gate = await gates.read(skuId);
    const pending = `${gate.pendingOrders} pending orders`;
    return `the gate of SKU ${skuId} is ${gate.state}, ${gate.available} available, ${pending}`;
  };
  try {
    return await Promise.all([
      answerOf('order', askOrder()),
      answerOf('payment', askPayment()),
      ...skuIds.map((skuId) => answerOf('stock', askGate(skuId))),
    ]);
  } finally {
    order.close();
    payment.close();
    gates.close();
  }
}

async function answerOf(service: string, asking: Promise<string>): Promise<ServiceAnswer> {
  try {
    return { service, answer: await asking };
  } catch (error) {
    if (isBusinessRefusal(error)) return { service, answer: `answers ${error.reason}` };
    return { service, answer: `no answer: ${(error as Error).message}` };
  }
}
