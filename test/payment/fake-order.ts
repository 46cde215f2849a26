import { Order, OrderStatus } from '../../gen/sluice/order/v1/order.ts';
import {
  OrderServiceDefinition,
  type OrderServiceImplementation,
  PaymentRecord,
  type RecordPaymentRequest,
  type RecordPaymentResult,
  type RecordRefundRequest,
} from '../../gen/sluice/order/v1/order_service.ts';
import type { DeadlineContext } from '../../services/runtime/grpc-deadline.ts';
import { service, startGrpcServer } from '../../services/runtime/grpc-server.ts';
import { createLog } from '../../services/runtime/log.ts';
import { toRefusalMessage } from '../../services/runtime/refusal-status.ts';
import { invalidRequest, Refusal } from '../../services/runtime/refusals.ts';

/** An order as the fake keeps it. */
export interface FakeOrderRow {
  readonly orderId: bigint;
  readonly userId: bigint;
  readonly total: { currencyCode: string; minorUnits: bigint };
  status: OrderStatus;
  paymentId: bigint;
}

/** Order's contract towards payment, held in memory behind a real gRPC server. */
export interface FakeOrder {
  readonly address: string;
  readonly orders: Map<bigint, FakeOrderRow>;
  /** Every payment that was decided, in order. */
  readonly recorded: { orderId: bigint; paymentId: bigint; answer: PaymentRecord }[];
  /** How large the batches of payments were. */
  readonly batches: number[];
  /** Every RecordRefund that arrived, in order. */
  readonly refunded: RecordRefundRequest[];
  /** Adds a PENDING order of 1,000 EUR cents, in slot 0 unless told otherwise. */
  add(userId?: bigint, slot?: bigint): FakeOrderRow;
  /** Runs before a call is decided; throws to refuse it. */
  before: (method: string, orderId: bigint) => void | Promise<void>;
  /** Runs after it was decided; throws to lose the answer. */
  after: (method: string, orderId: bigint) => void | Promise<void>;
  stop(): Promise<void>;
}

/** The bits of an order's id below its slot. */
const idsPerSlot = 4_096n;

const { ORDER_STATUS_PENDING: pending, ORDER_STATUS_PAID: paid } = OrderStatus;

export async function startFakeOrder(): Promise<FakeOrder> {
  let lastId = 1_000n;
  const orders = new Map<bigint, FakeOrderRow>();
  const fake: FakeOrder = {
    address: '',
    orders,
    recorded: [],
    batches: [],
    refunded: [],
    add(userId = 7n, slot = 0n) {
      lastId += 1n;
      const row = {
        ...{
          orderId: lastId + slot * idsPerSlot,
          userId,
          status: pending as OrderStatus,
          paymentId: 0n,
        },
        total: { currencyCode: 'EUR', minorUnits: 1_000n },
      };
      orders.set(row.orderId, row);
      return row;
    },
    before: () => undefined,
    after: () => undefined,
    stop: async () => undefined,
  };

  const rowOf = (orderId: bigint): FakeOrderRow => {
    const row = orders.get(orderId);
    if (row === undefined) throw new Refusal('NOT_FOUND', 'There is no such order');
    return row;
  };
  /** One payment of a batch; what it throws refuses this one alone. */
  const recordOne = async (request: RecordPaymentRequest): Promise<RecordPaymentResult> => {
    const { orderId, paymentId, amount } = request;
    try {
      await fake.before('recordPayment', orderId);
      const row = rowOf(orderId);
      if (amount?.minorUnits !== row.total.minorUnits) {
        throw invalidRequest([{ field: 'amount', description: 'is not the total' }]);
      }
      if (row.status === pending) Object.assign(row, { status: paid, paymentId });
      const record =
        row.paymentId === paymentId
          ? PaymentRecord.PAYMENT_RECORD_RECORDED
          : PaymentRecord.PAYMENT_RECORD_ORDER_CLOSED;
      fake.recorded.push({ orderId, paymentId, answer: record });
      await fake.after('recordPayment', orderId);
      return { outcome: { $case: 'recorded', value: { record } } };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return { outcome: { $case: 'refusal', value: toRefusalMessage(error) } };
    }
  };
  const implementation: Partial<OrderServiceImplementation<DeadlineContext>> = {
    async beginPayment({ orderId, userId }) {
      await fake.before('beginPayment', orderId);
      const row = rowOf(orderId);
      if (row.userId !== userId) throw new Refusal('NOT_FOUND', 'There is no such order');
      if (row.status !== pending) throw new Refusal('ILLEGAL_TRANSITION', 'It is not PENDING');
      await fake.after('beginPayment', orderId);
      const expireTime = new Date(Date.now() + 900_000);
      return { order: Order.fromPartial({ ...row, expireTime }), timeLeftMs: 900_000n };
    },
    async batchRecordPayments({ requests }) {
      fake.batches.push(requests.length);
      return { results: await Promise.all(requests.map(recordOne)) };
    },
    async recordRefund(request) {
      await fake.before('recordRefund', request.orderId);
      const row = rowOf(request.orderId);
      fake.refunded.push(request);
      await fake.after('recordRefund', request.orderId);
      return { order: Order.fromPartial(row) };
    },
  };
  const unimplemented = async (): Promise<never> => {
    throw new Error('not part of the fake');
  };
  const methods = Object.keys(OrderServiceDefinition.methods);
  const rest = Object.fromEntries(methods.map((method) => [method, unimplemented]));
  const server = await startGrpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      service(OrderServiceDefinition, {
        ...rest,
        ...implementation,
      } as OrderServiceImplementation<DeadlineContext>),
    ],
    log: createLog('fake-order', 'silent'),
    inFlightMax: 1_000,
  });
  return Object.assign(fake, { address: `127.0.0.1:${server.port}`, stop: () => server.stop() });
}
