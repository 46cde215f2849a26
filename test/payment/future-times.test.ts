import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import {
  type Payment,
  PaymentSettlement,
  RefundStatus,
} from '../../gen/sluice/payment/v1/payment.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import { encodeEvent } from './fake-provider.ts';
import {
  type PaymentBench,
  type PaymentProcess,
  startPaymentBench,
  untilPayment,
} from './support.ts';

// MySQL's clock was ten minutes ahead and has been set back: what was put off meanwhile is not left for ten minutes.

const { PAYMENT_SETTLEMENT_RECORDED: recorded, PAYMENT_SETTLEMENT_AWAITING: awaiting } =
  PaymentSettlement;
const ahead = 'NOW(3) + INTERVAL 10 MINUTE';
/** Far less than the clock was ahead. */
const bounds = { withinMs: 30_000 };

let bench: PaymentBench;
let payment: PaymentProcess;

before(async () => {
  bench = await startPaymentBench('ahead');
  payment = await bench.start();
});
afterEach(() => {
  bench.order.before = () => undefined;
  bench.provider.refundAs = 'succeeded';
});
after(() => bench.stop());

/** Puts all that waits in a table off, as a clock that was ahead did, while nothing of it is under way. */
async function putOff(table: string): Promise<void> {
  await payment.stop();
  await bench.sql(`UPDATE ${table} SET next_time = ${ahead} WHERE next_time IS NOT NULL`);
  payment = await bench.start();
}

const settlementOf = async (paymentId: bigint) => (await payment.read(paymentId)).settlement;

async function untilRecorded(paymentId: bigint): Promise<void> {
  const isRecorded = async () => (await settlementOf(paymentId)) === recorded;
  await eventually(isRecorded, 'it is recorded', bounds);
}

async function paid(): Promise<Payment> {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  await payment.deliver(bench.provider.pay(paymentId));
  return await untilPayment(payment, paymentId, (one) => one.settlement === recorded, 'recorded');
}

test('the provider is asked about a silent payment', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  bench.provider.pay(paymentId);
  await putOff('payments');
  await untilRecorded(paymentId);
});

test('order is told of a payment', async () => {
  bench.order.before = (method) => {
    if (method === 'recordPayment') throw new Refusal('DEPENDENCY_DOWN');
  };
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  await payment.deliver(bench.provider.pay(paymentId));
  await putOff('payments');
  assert.equal(await settlementOf(paymentId), awaiting);
  bench.order.before = () => undefined;
  await untilRecorded(paymentId);
});

test('a refund goes on', async () => {
  const { paymentId } = await paid();
  bench.provider.refundAs = 'pending';
  await payment.refund(paymentId, 'a');
  const statusOf = async () => (await payment.read(paymentId)).refunds[0]?.status;
  const atProvider = () =>
    [...bench.provider.refunds.values()].find(
      ({ order }) => order.reference === `ses_${paymentId}`,
    );
  await eventually(atProvider, 'the provider has it');
  await putOff('refunds');
  const stored = atProvider();
  assert(stored);
  stored.state = { kind: 'succeeded', reference: 'ref' };
  await eventually(
    async () => (await statusOf()) === RefundStatus.REFUND_STATUS_SUCCEEDED,
    'it is done',
    bounds,
  );
});

test('a webhook that was set aside takes effect', async () => {
  const { paymentId } = await payment.pay(bench.order.add().orderId);
  const event = bench.provider.pay(paymentId);
  await bench.sql(
    `INSERT INTO webhooks_aside (provider, event_id, body, failure, next_time, create_time)
     VALUES ('simulator', ?, ?, '', ${ahead}, NOW(3))`,
    [Buffer.from(event.eventId), encodeEvent(event)],
  );
  const aside = () => bench.sql('SELECT 1 FROM webhooks_aside');
  await eventually(async () => (await aside()).length === 0, 'it is taken in', bounds);
  await untilRecorded(paymentId);
});
