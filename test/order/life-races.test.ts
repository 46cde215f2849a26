import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { CloseReason, type Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import { PaymentRecord } from '../../gen/sluice/order/v1/order_service.ts';
import {
  decideTransition,
  statusName,
  type Transition,
  transitions,
} from '../../services/order/order.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { eventually } from '../support/eventually.ts';
import {
  byVersion,
  type OrderBench,
  type OrderProcess,
  orderRequest,
  startOrderBench,
} from './support.ts';

const price = { currencyCode: 'EUR', minorUnits: 100n };
const seed = Number(process.env.SLUICE_TEST_SEED ?? Date.now() % 1_000_000);
const rounds = 120;
const ordersMax = 5;
const tellAttemptsMax = 5;

let bench: OrderBench;
let processes: [OrderProcess, OrderProcess];
const expiry = { intervalMs: 20, batchMax: 3, batchesMax: 5, voidsInFlightMax: 4 };

before(async () => {
  bench = await startOrderBench('races');
  processes = [await bench.start({ expiry }), await bench.start({ expiry })];
});
after(() => bench.stop());

/** Mulberry32: small, and the same on every machine. */
function randomFrom(start: number): () => number {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Payment as the contract wants it, in memory: a closed order's sessions cannot be paid any more,
 * and a session that was paid answers PAID until the order was told.
 */
class Sessions {
  readonly closed = new Set<bigint>();
  readonly paid = new Map<bigint, bigint[]>();
  readonly records = new Map<bigint, PaymentRecord>();

  /** The buyer pays on the page. @returns whether the session still took the money */
  pay(orderId: bigint, paymentId: bigint): boolean {
    if (this.closed.has(orderId)) return false;
    const ofOrder = this.paid.get(orderId) ?? [];
    this.paid.set(orderId, [...ofOrder, paymentId]);
    return true;
  }

  close(orderId: bigint): 'CLOSED' | 'PAID' {
    const payments = this.paid.get(orderId) ?? [];
    const open = payments.some((id) => !this.isSurplus(id));
    if (open) return 'PAID';
    this.closed.add(orderId);
    return 'CLOSED';
  }

  isSurplus(paymentId: bigint): boolean {
    return this.records.get(paymentId) === PaymentRecord.PAYMENT_RECORD_ORDER_CLOSED;
  }

  isRecorded(orderId: bigint): boolean {
    const payments = this.paid.get(orderId) ?? [];
    return payments.some((id) => this.records.get(id) === PaymentRecord.PAYMENT_RECORD_RECORDED);
  }
}

test(`pay, cancel and expiry race over few orders (seed ${seed})`, async () => {
  const random = randomFrom(seed);
  const pick = (): OrderProcess => processes[random() < 0.5 ? 0 : 1];
  const sessions = new Sessions();
  bench.payment.onClose = (orderId) => sessions.close(orderId);
  bench.payment.onRefund = (orderId) => sessions.isRecorded(orderId);
  let paymentIds = 0n;

  /** Begins a payment, pays it, and tells the order until it answers, now and then twice. */
  async function payOnce(order: Order): Promise<void> {
    const { orderId, userId } = order;
    try {
      await pick().client.beginPayment({ orderId, userId });
    } catch {
      return;
    }
    paymentIds += 1n;
    const paymentId = paymentIds;
    if (!sessions.pay(orderId, paymentId)) return;
    const times = random() < 0.3 ? 3 : 1;
    const answers = Array.from({ length: times }, () => tell(orderId, paymentId));
    const [first, ...rest] = await Promise.all(answers);
    for (const record of rest) assert.equal(record, first);
    sessions.records.set(paymentId, first as PaymentRecord);
  }

  /** A lock that was held for too long, or an answer that was lost, says nothing: it is told again. */
  async function tell(orderId: bigint, paymentId: bigint): Promise<PaymentRecord> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const request = { orderId, paymentId, amount: price };
        return (await pick().client.recordPayment(request)).record;
      } catch (error) {
        const again = error instanceof Refusal && /OVERLOADED|OUTCOME_UNKNOWN/.test(error.reason);
        if (!again || attempt >= tellAttemptsMax) throw error;
      }
    }
  }

  async function cancelOnce({ orderId, userId }: Order): Promise<void> {
    await pick()
      .client.cancelOrder({ orderId, userId })
      .catch((error) => assert.match(error.reason, /OUTCOME_UNKNOWN|OVERLOADED/));
  }

  async function expireOnce({ orderId }: Order): Promise<void> {
    const { database, table } = processes[0].shards.placeOfOrder(orderId);
    await bench.sql(
      database.index,
      `UPDATE orders_${table} SET expire_time = UTC_TIMESTAMP(3) WHERE order_id = ${orderId}`,
    );
  }

  const orders: Order[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const made: Order[] = [];
    for (let index = 0; index < 1 + Math.floor(random() * ordersMax); index += 1) {
      const userId = BigInt(round * ordersMax + index + 1);
      const { order } = await pick().client.createOrder(orderRequest(userId, 'race'));
      made.push(order as Order);
    }
    orders.push(...made);
    const work = made.flatMap((order) =>
      [payOnce, payOnce, cancelOnce, cancelOnce, expireOnce]
        .filter(() => random() < 0.6)
        .map((one) => ({ at: random(), run: () => one(order) })),
    );
    work.sort((a, b) => a.at - b.at);
    await Promise.all(work.map(({ run }) => run()));
  }

  // What was not cancelled or paid is closed by time in the end.
  for (const order of orders) await expireOnce(order);
  await eventually(
    async () => {
      const open = await bench.orderRows(`status = ${OrderStatus.ORDER_STATUS_PENDING}`);
      return open.length === 0;
    },
    'no order is left open',
    { withinMs: 60_000 },
  );
  const endings = new Set<string>();
  for (const order of orders) endings.add(await checkOrder(order.orderId, sessions));
  for (const paymentId of sessions.records.keys()) {
    if (sessions.isSurplus(paymentId)) endings.add('surplus payment');
  }
  // A race that one side always wins would prove nothing.
  assert.deepEqual([...endings].sort(), [
    'CANCELLED 1',
    'CANCELLED 2',
    'PAID 0',
    'REFUNDING 0',
    'surplus payment',
  ]);
});

/** @returns how the order ended: its state and the reason of its close */
async function checkOrder(orderId: bigint, sessions: Sessions): Promise<string> {
  const { client } = processes[0];
  const { order } = await client.getOrder({ orderId, userId: 0n });
  assert.ok(order);
  const { transitions: steps } = await client.getOrderHistory({ orderId, userId: 0n });
  // Every step is legal, and the versions have no gap.
  for (const [index, step] of steps.entries()) {
    assert.equal(step.version, index + 1);
    if (index === 0) continue;
    const legal = (Object.keys(transitions) as Transition[]).some((transition) => {
      const effect = decideTransition(step.fromStatus, transition);
      return (
        effect.kind === 'moves' &&
        effect.to === step.toStatus &&
        effect.closeReason === step.closeReason
      );
    });
    assert.ok(legal, `${orderId}: ${step.fromStatus} → ${step.toStatus}`);
  }
  assert.equal(order.version, steps.length);
  // One payment at most is the order's; every other one was told so, and is refunded.
  const payments = sessions.paid.get(orderId) ?? [];
  const recorded = payments.filter(
    (id) => sessions.records.get(id) === PaymentRecord.PAYMENT_RECORD_RECORDED,
  );
  assert.deepEqual(recorded, order.paymentId === 0n ? [] : [order.paymentId]);
  for (const id of payments) assert.ok(recorded.includes(id) || sessions.isSurplus(id));
  if (order.status === OrderStatus.ORDER_STATUS_CANCELLED) {
    assert.equal(order.paymentId, 0n);
    assert.notEqual(order.closeReason, CloseReason.CLOSE_REASON_UNSPECIFIED);
    // Nobody was charged for it: a session that was paid before the close is the order's payment.
    assert.deepEqual(payments, []);
  }
  // One event for each version, no more.
  await eventually(() => bench.eventsOf(orderId).length >= steps.length, 'all are published');
  const events = byVersion(bench.eventsOf(orderId)).map(({ version, status }) => [version, status]);
  assert.deepEqual(
    events,
    steps.map(({ version, toStatus }) => [version, toStatus]),
  );
  return `${statusName(order.status)} ${order.closeReason}`;
}
