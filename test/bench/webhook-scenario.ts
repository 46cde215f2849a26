import { createHmac } from 'node:crypto';
import { createChannel, createClientFactory } from 'nice-grpc';
import type { Payment } from '../../gen/sluice/payment/v1/payment.ts';
import { PaymentServiceDefinition } from '../../gen/sluice/payment/v1/payment_service.ts';
import { createHttpTarget, type HttpRequests, textBehind } from './http-target.ts';
import { type LifeReport, percentilesText } from './life-report.ts';
import type { Progress } from './life-scenarios.ts';
import { type MadeOrder, makeOrders } from './made-orders.ts';
import { offerLoad } from './open-loop.ts';
import type { BenchOptions, Stack } from './options.ts';
import { countStates } from './order-states.ts';
import { watchUsage } from './process-usage.ts';
import { Recorder } from './recorder.ts';
import { openSale } from './sale.ts';

const defaultRate = 1_000;
const sessionsInFlight = 32;
const settleMaxMs = 90_000;
const paid = '2';
const sold = '2';

/** Orders with open sessions are made first; then their webhooks come at a fixed rate, each once. */
export async function runWebhookScenario(
  { rate = defaultRate, seconds, skus, users, connections }: BenchOptions,
  stack: Stack,
  progress: Progress,
): Promise<LifeReport> {
  const count = rate * seconds;
  const sale = await openSale(stack, { skus, users });
  progress(`webhooks: making ${count} orders`);
  const orders = await makeOrders(stack, sale, count);
  progress('webhooks: opening their sessions');
  const opening = performance.now();
  const payments = await openSessions(stack, orders);
  const sessionsPerSecond = count / ((performance.now() - opening) / 1_000);
  const recorder = new Recorder();
  const target = createHttpTarget({
    url: stack.edgeUrl,
    requests: webhookRequests(stack, payments),
    recorder,
    connectionsMax: connections,
  });
  try {
    progress(`webhooks: ${rate}/s for ${seconds} s`);
    const usage = watchUsage([...stack.processes, { name: 'load', pid: process.pid }]);
    const load = await offerLoad({ target, recorder, rate, seconds });
    const settled = await waitUntil(async () => {
      const { orders: states, holds } = await countStates(stack, sale);
      return states[paid] === count && holds[sold] === count;
    });
    const used = usage.stop();
    const summary = recorder.summary(load.from, load.to);
    const states = await countStates(stack, sale);
    const problems = [
      ...(summary.ok === count ? [] : [`${count - summary.ok} webhooks were not accepted`]),
      ...(settled === undefined ? [`states after 90 s: ${JSON.stringify(states)}`] : []),
    ];
    return {
      scenario: 'webhooks',
      figures: {
        offered: `${rate}/s for ${seconds} s, ${count} webhooks`,
        accepted: `${(summary.ok / seconds).toFixed(0)}/s`,
        'latency of accepted': percentilesText(summary.okMs),
        'all PAID and SOLD after the last': `${settled ?? '–'} ms`,
        'sessions opened before': `${sessionsPerSecond.toFixed(0)}/s`,
      },
      usage: used,
      problems,
    };
  } finally {
    await target.close();
  }
}

/** Begins the payment of every order, some at once. */
async function openSessions(stack: Stack, orders: readonly MadeOrder[]): Promise<Payment[]> {
  const channel = createChannel(stack.paymentAddress);
  const client = createClientFactory().create(PaymentServiceDefinition, channel);
  const payments: Payment[] = [];
  let next = 0;
  const opener = async (): Promise<void> => {
    for (let index = next++; index < orders.length; index = next++) {
      const { orderId, userId } = orders[index] as MadeOrder;
      const { payment } = await client.createPayment({ orderId, userId, requestId: 'bench' });
      payments[index] = payment as Payment;
    }
  };
  try {
    await Promise.all(Array.from({ length: sessionsInFlight }, opener));
    return payments;
  } finally {
    channel.close();
  }
}

/** The webhooks of the simulator, signed when they are sent. */
function webhookRequests(
  { edgeUrl, webhookKey }: Stack,
  payments: readonly Payment[],
): HttpRequests {
  const { host } = new URL(edgeUrl);
  return {
    textOf(number) {
      const body = webhookBody(number, payments[number] as Payment);
      const seconds = Math.floor(Date.now() / 1_000);
      const digest = createHmac('sha256', webhookKey).update(`${seconds}.${body}`).digest('hex');
      return (
        `POST /v1/webhooks/simulator HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n` +
        `sluice-simulator-signature: t=${seconds},v1=${digest}\r\ncontent-length: ${body.length}\r\n\r\n${body}`
      );
    },
    read({ status, body }) {
      return status === 200 ? 0n : textBehind(body, '"reason":"');
    },
  };
}

function webhookBody(number: number, payment: Payment): string {
  const { paymentId, orderId, providerReference, amount } = payment;
  const money = {
    currencyCode: amount?.currencyCode,
    minorUnits: String(amount?.minorUnits),
  };
  const session = {
    id: providerReference,
    status: 'paid',
    amount: money,
    captured: money,
    metadata: { paymentId: String(paymentId), orderId: String(orderId) },
  };
  return JSON.stringify({
    id: `evt_bench_${paymentId}_${number}`,
    type: 'session.paid',
    createTime: new Date().toISOString(),
    data: { session },
  });
}

/** @returns after how many milliseconds the condition held; undefined if it did not within 90 s */
async function waitUntil(condition: () => Promise<boolean>): Promise<number | undefined> {
  const startMs = performance.now();
  while (performance.now() - startMs < settleMaxMs) {
    if (await condition()) return Math.round(performance.now() - startMs);
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  return undefined;
}
