import type { RowDataPacket } from 'mysql2/promise';
import { Metadata } from 'nice-grpc';
import { migrateAll } from '../../db/migrate.ts';
import type { Payment } from '../../gen/sluice/payment/v1/payment.ts';
import { PaymentServiceDefinition } from '../../gen/sluice/payment/v1/payment_service.ts';
import { compose, type RunningPayment } from '../../services/payment/compose.ts';
import { type PaymentConfig, readConfig } from '../../services/payment/config.ts';
import type { PaymentProvider, ProviderEvent } from '../../services/payment/provider.ts';
import { demoTokenSecret } from '../../services/runtime/env.ts';
import { createGrpcClient } from '../../services/runtime/grpc-client.ts';
import { createLog } from '../../services/runtime/log.ts';
import { createPool, type Pool } from '../../services/runtime/mysql.ts';
import { Refusal } from '../../services/runtime/refusals.ts';
import { createTokens } from '../../services/runtime/tokens.ts';
import { dropDatabases } from '../support/databases.ts';
import { eventually } from '../support/eventually.ts';
import { outlastPauses } from '../support/outlast-pauses.ts';
import { mysqlUrl, uniquePrefix } from '../support/servers.ts';
import { type FakeOrder, startFakeOrder } from './fake-order.ts';
import { createFakeProvider, encodeEvent, type FakeProvider } from './fake-provider.ts';

// Payment, order and the provider share the process of a test.
outlastPauses();

const policy = { deadlineMs: 20_000, breaker: 'test' };
const callTable = {
  createPayment: policy,
  getPayment: policy,
  listPayments: policy,
  closePayment: policy,
  refundPayment: policy,
  refundOrder: policy,
  handleWebhook: policy,
  batchHandleWebhooks: policy,
} as const;

/** A payment database of a test file's own, a fake order, the far end of a provider, and processes between them. */
export interface PaymentBench {
  readonly order: FakeOrder;
  readonly provider: FakeProvider;
  readonly pool: Pool;
  readonly prefix: string;
  start(settings?: Partial<PaymentConfig>, provider?: PaymentProvider): Promise<PaymentProcess>;
  sql<Row extends RowDataPacket>(statement: string, params?: unknown[]): Promise<Row[]>;
  /** Lets every postponed work be due now, instead of waiting for its time. */
  makeDue(): Promise<void>;
  stop(): Promise<void>;
}

export interface PaymentProcess extends RunningPayment {
  readonly client: ReturnType<typeof connect>['client'];
  readonly closeCircuit: () => void;
  /** A new payment of an order, with its session. */
  pay(orderId: bigint, requestId?: string, userId?: bigint): Promise<Payment>;
  /** Delivers a webhook until it is taken in; whether it was a duplicate. */
  deliver(event: ProviderEvent): Promise<boolean>;
  read(paymentId: bigint): Promise<Payment>;
  refund(
    paymentId: bigint,
    requestId: string,
    minorUnits?: bigint,
    restock?: boolean,
  ): ReturnType<ReturnType<typeof connect>['client']['refundPayment']>;
  stop(): Promise<void>;
}

export async function startPaymentBench(name: string): Promise<PaymentBench> {
  const prefix = uniquePrefix(name);
  await migrateAll({
    ...{ mysqlUrls: [mysqlUrl], databasePrefix: prefix },
    orderShards: { databases: 1, tables: 1 },
  });
  const pool = createPool(mysqlUrl, { database: `${prefix}_payment`, connectionsMax: 4 });
  const order = await startFakeOrder();
  const provider = createFakeProvider();
  const running = new Set<PaymentProcess>();

  async function sql<Row extends RowDataPacket>(statement: string, params: unknown[] = []) {
    const [rows] = await pool.query<Row[]>(statement, params);
    return rows;
  }

  return {
    ...{ order, provider, pool, prefix, sql },
    async start(settings = {}, other = provider) {
      const variables = {
        SLUICE_PAYMENT_PORT: '0',
        SLUICE_PAYMENT_METRICS_PORT: '0',
        SLUICE_DEMO: '1',
        SLUICE_LOG_LEVEL: process.env.SLUICE_LOG_LEVEL ?? 'silent',
      };
      const config: PaymentConfig = {
        ...readConfig(variables),
        mysqlUrl,
        databasePrefix: prefix,
        orderAddresses: [order.address],
        ...settings,
      };
      const payment = await compose(config, { provider: other });
      const process_ = processOf(payment, running);
      running.add(process_);
      return process_;
    },
    async makeDue() {
      await pool.query('UPDATE payments SET next_time = NOW(3) WHERE next_time IS NOT NULL');
      await pool.query('UPDATE refunds SET next_time = NOW(3) WHERE next_time IS NOT NULL');
      await pool.query('UPDATE webhooks_aside SET next_time = NOW(3)');
    },
    async stop() {
      for (const one of [...running]) await one.stop();
      await order.stop();
      await pool.end();
      await dropDatabases(prefix);
    },
  };
}

/** A provider has more patience. */
const deliveriesMax = 10;

function processOf(payment: RunningPayment, running: Set<PaymentProcess>): PaymentProcess {
  const connected = connect(payment.port);
  const { client } = connected;
  const one: PaymentProcess = {
    ...payment,
    client,
    closeCircuit: () => connected.breaker(policy.breaker)?.close(),
    async pay(orderId, requestId = 'first', userId = 7n) {
      const { payment: made } = await client.createPayment({ orderId, userId, requestId });
      return made as Payment;
    },
    async deliver(event) {
      const body = encodeEvent(event);
      const request = { provider: 'simulator', body, headers: { signature: 'genuine' } };
      for (let attempt = 1; ; attempt += 1) {
        try {
          return (await client.handleWebhook(request)).duplicate;
        } catch (error) {
          // Payment waits once for a payment that others have locked, for a second; a pause of this process lasts as long.
          const isLocked = error instanceof Refusal && error.reason === 'OVERLOADED';
          if (!isLocked || attempt >= deliveriesMax) throw error;
        }
      }
    },
    async read(paymentId) {
      return (await client.getPayment({ paymentId, userId: 0n })).payment as Payment;
    },
    refund(paymentId, requestId, minorUnits, restock = false) {
      const amount = minorUnits === undefined ? undefined : { currencyCode: 'EUR', minorUnits };
      const request = { paymentId, requestId, amount, restock, reason: 'a test' };
      return client.refundPayment(request, { metadata: asOperator });
    },
    async stop() {
      running.delete(one);
      connected.close();
      await payment.lifecycle.stop();
    },
  };
  return one;
}

function connect(port: number) {
  return createGrpcClient(PaymentServiceDefinition, {
    addresses: [`127.0.0.1:${port}`],
    callTable,
    log: createLog('test', 'silent'),
  });
}

const { token } = createTokens({ secret: demoTokenSecret }).sign({
  ...{ userId: 1n, role: 'admin', ttlSeconds: 3_600 },
});
/** What an operator's calls carry. */
export const asOperator = Metadata({ authorization: `Bearer ${token}` });

/** Waits until a payment, as its contract shows it, is as wanted. */
export async function untilPayment(
  process_: PaymentProcess,
  paymentId: bigint,
  isWanted: (payment: Payment) => boolean,
  what: string,
): Promise<Payment> {
  let payment: Payment | undefined;
  await eventually(async () => {
    payment = await process_.read(paymentId);
    return isWanted(payment);
  }, what);
  return payment as Payment;
}
