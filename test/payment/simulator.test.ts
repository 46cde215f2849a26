import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, afterEach, before, test } from 'node:test';
import {
  type Payment,
  PaymentSettlement,
  PaymentStatus,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { CloseResult } from '../../gen/sluice/payment/v1/payment_service.ts';
import { Refusal, refusalTable } from '../../services/runtime/refusals.ts';
import { type RunningSimulator, startSimulator } from '../simulator/support.ts';
import { eventually } from '../support/eventually.ts';
import {
  type PaymentBench,
  type PaymentProcess,
  startPaymentBench,
  untilPayment,
} from './support.ts';

const { PAYMENT_SETTLEMENT_RECORDED: recorded, PAYMENT_SETTLEMENT_SURPLUS: surplus } =
  PaymentSettlement;
const { REFUND_STATUS_SUCCEEDED: refunded } = RefundStatus;

let bench: PaymentBench;
let payment: PaymentProcess;
let simulator: RunningSimulator;
let route: Server;

before(async () => {
  bench = await startPaymentBench('simulator');
  route = await startRoute();
  const { port } = route.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}/`;
  simulator = await startSimulator({ SLUICE_SIMULATOR_WEBHOOK_URL: url });
  payment = await bench.start({ pollMs: 200 }, simulator.provider);
});
afterEach(async () => {
  await simulator.knobs({});
  payment.closeCircuit();
});
after(async () => {
  await simulator.stop();
  await bench.stop();
  route.closeAllConnections();
  await new Promise((resolve) => route.close(resolve));
});

/** What the edge does with a webhook: raw body and headers to payment, its answer back. */
function startRoute(): Promise<Server> {
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const headers: Record<string, string> = {};
    for (const [name, value] of Object.entries(request.headers)) headers[name] = String(value);
    const webhook = { provider: 'simulator', body: Buffer.concat(chunks), headers };
    const status = await payment.client.handleWebhook(webhook).then(
      () => 204,
      (error: unknown) => (error instanceof Refusal ? refusalTable[error.reason].http : 500),
    );
    response.writeHead(status).end();
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(server));
  });
}

async function buy({ providerReference }: Payment, status = 200): Promise<void> {
  const answer = await simulator.call('POST', `/v1/sessions/${providerReference}/pay`, {});
  assert.equal(answer.status, status, JSON.stringify(answer.body));
}
const open = (): Promise<Payment> => payment.pay(bench.order.add().orderId);
const untilRecorded = ({ paymentId }: Payment) =>
  untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'it is recorded');
const untilRefunded = ({ paymentId }: Payment) =>
  untilPayment(payment, paymentId, (one) => one.refunds[0]?.status === refunded, 'it is refunded');

test('a hundred copies of each webhook, shuffled, pay twenty orders once each', async () => {
  await simulator.knobs({ duplicates: 100, reorderMs: 300 });
  const made = await Promise.all(Array.from({ length: 20 }, open));
  await Promise.all(made.map((one) => buy(one)));
  for (const one of made) {
    assert.deepEqual((await untilRecorded(one)).refunds, []);
    const answers = bench.order.recorded.filter(({ paymentId }) => paymentId === one.paymentId);
    assert.equal(answers.length, 1);
  }
});

test('a wrong amount is kept and goes back through the provider', async () => {
  await simulator.knobs({ wrongAmount: -300 });
  const made = await open();
  await buy(made);
  const { settlement, captured, refunds } = await untilRefunded(made);
  assert.deepEqual([settlement, captured?.minorUnits], [surplus, 700n]);
  assert.deepEqual(
    refunds.map(({ amount }) => amount?.minorUnits),
    [700n],
  );
});

test('a wrong signature has no effect; the poller learns of the payment all the same', async () => {
  await simulator.knobs({ wrongSignature: true });
  const made = await open();
  await buy(made);
  await untilRecorded(made);
  const rows = await bench.sql('SELECT 1 FROM webhook_inbox WHERE payment_id = ?', [
    made.paymentId,
  ]);
  assert.equal(rows.length, 0);
});

test('a provider that stays silent is asked', async () => {
  await simulator.knobs({ silence: true });
  const made = await open();
  await buy(made);
  await untilRecorded(made);
});

test('answers lost after their success leave one session, one refund', async () => {
  const { orderId } = bench.order.add();
  await simulator.knobs({ loseAnswers: 'drop' });
  await assert.rejects(payment.pay(orderId), { reason: 'OUTCOME_UNKNOWN' });
  await simulator.knobs({});
  const made = await payment.pay(orderId);
  await buy(made);
  await untilRecorded(made);
  await simulator.knobs({ loseAnswers: 'drop', silence: true });
  await payment.refund(made.paymentId, 'back', 400n);
  await eventually(async () => {
    const rows = await bench.sql('SELECT attempts FROM refunds WHERE payment_id = ?', [
      made.paymentId,
    ]);
    return rows[0]?.attempts > 1;
  }, 'the refund was tried again');
  await simulator.knobs({});
  const { refunds } = await untilRefunded(made);
  assert.deepEqual(
    refunds.map(({ amount }) => amount?.minorUnits),
    [400n],
  );
  const { body } = await simulator.call('GET', `/v1/refunds/by-key/${refunds[0]?.refundId}`);
  assert.equal(body.amount.minorUnits, '400');
});

test('a payment let in after its order was closed is refunded whole', async () => {
  const made = await open();
  const { result } = await payment.client.closePayment({ orderId: made.orderId });
  assert.equal(result, CloseResult.CLOSE_RESULT_CLOSED);
  assert.equal((await payment.read(made.paymentId)).status, PaymentStatus.PAYMENT_STATUS_CLOSED);
  const row = bench.order.orders.get(made.orderId);
  assert(row);
  row.status = 5;
  await buy(made, 409);
  await simulator.knobs({ payAfterClose: true });
  await buy(made);
  const { refunds } = await untilRefunded(made);
  assert.deepEqual(
    refunds.map(({ amount, requestId }) => [amount?.minorUnits, requestId]),
    [[1_000n, 'surplus']],
  );
});

test('a refund that the provider refuses is FAILED and another one goes through', async () => {
  const made = await open();
  await buy(made);
  await untilRecorded(made);
  await simulator.knobs({ refuseRefunds: true });
  await payment.refund(made.paymentId, 'refused');
  const isFailed = (one: Payment): boolean =>
    one.refunds[0]?.status === RefundStatus.REFUND_STATUS_FAILED;
  await untilPayment(payment, made.paymentId, isFailed, 'it is refused');
  await simulator.knobs({});
  await payment.refund(made.paymentId, 'again');
  const isDone = (one: Payment): boolean => one.refunds[1]?.status === refunded;
  await untilPayment(payment, made.paymentId, isDone, 'it is refunded');
});
