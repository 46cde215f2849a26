import { Deadline } from '../runtime/deadline.ts';
import { startGrpcServer } from '../runtime/grpc-server.ts';
import type { Lifecycle } from '../runtime/lifecycle.ts';
import type { Log } from '../runtime/log.ts';
import type { Loop } from '../runtime/loop.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { startObservabilityServer } from '../runtime/observability-server.ts';
import { startService } from '../runtime/start-service.ts';
import { createTokens } from '../runtime/tokens.ts';
import { type AfterSettling, createApplySessionState } from './apply-session-state.ts';
import { createClosePayment } from './close-payment.ts';
import type { PaymentConfig } from './config.ts';
import { createCreatePayment } from './create-payment.ts';
import { createHandleWebhook } from './handle-webhook.ts';
import { connectOrder, type OrderGateway } from './order-gateway.ts';
import { createPacedProvider } from './paced-provider.ts';
import { openPaymentDatabase, type PaymentDatabase, query } from './payment-database.ts';
import { createPaymentMetrics } from './payment-metrics.ts';
import { createPaymentService } from './payment-server.ts';
import { createPaymentSessions } from './payment-session.ts';
import { startPollSessions } from './poll-sessions.ts';
import type { PaymentProvider } from './provider.ts';
import { createProvider } from './providers/create-provider.ts';
import { createRecordPayments, startRecordPayments } from './record-payments.ts';
import { createRefundUseCases } from './refund-payment.ts';
import { startRefundWorker } from './refund-worker.ts';
import { startRetryAside } from './retry-aside.ts';
import { startWatchWork } from './watch-work.ts';

/** What tests replace; everything else is built from the configuration. */
export interface PaymentOverrides {
  readonly provider?: PaymentProvider;
  readonly order?: OrderGateway;
  readonly log?: Log;
}

/** A running payment service. */
export interface RunningPayment {
  readonly port: number;
  readonly metricsPort: number;
  readonly lifecycle: Lifecycle;
  readonly log: Log;
}

const readyDeadlineMs = 1_000;

/** Builds and starts the payment service; what was started is stopped again if a part cannot start. */
export async function compose(
  config: PaymentConfig,
  overrides: PaymentOverrides = {},
): Promise<RunningPayment> {
  return await startService('payment', config, overrides.log, (log, lifecycle) =>
    start(config, overrides, log, lifecycle),
  );
}

async function start(
  config: PaymentConfig,
  overrides: PaymentOverrides,
  log: Log,
  lifecycle: Lifecycle,
): Promise<RunningPayment> {
  const registry = createMetrics('payment');
  const metrics = createPaymentMetrics(registry);
  const { breakerState } = metrics;
  const { connectionsMax, pollMs } = config;
  const database = openPaymentDatabase(config.mysqlUrl, {
    database: `${config.databasePrefix}_payment`,
    connectionsMax,
    hops: metrics.hops,
  });
  lifecycle.add('database', () => database.close());
  const order =
    overrides.order ?? connectOrder({ addresses: config.orderAddresses, log, breakerState });
  lifecycle.add('order gateway', () => order.close());
  const { callsPerSecond, sessionsPerSecond, sessionsInFlightMax } = config;
  const provider = createPacedProvider(overrides.provider ?? createProvider(config.provider, log), {
    log,
    callsPerSecond,
    sessionsPerSecond,
    sessionsInFlightMax,
    metrics,
  });
  lifecycle.add('provider', () => provider.close());
  const providers = new Map([[provider.name, provider]]);

  const refundLoop: { loop?: Loop } = {};
  const wakeRefunds = (): void => refundLoop.loop?.wake();
  const recordPayments = createRecordPayments({ database, order, wakeRefunds, metrics, log });
  lifecycle.add('records', () => recordPayments.close());
  const afterSettling: AfterSettling = { tellOrder: recordPayments.tellSoon, wakeRefunds };
  const reports = createApplySessionState({ database, afterSettling, metrics, log });
  lifecycle.add('reports', () => reports.close());
  const { applySessionState } = reports;
  const sessions = createPaymentSessions({ database, providers, applySessionState, log });
  const takeIn = { database, providers, afterSettling, metrics, log };
  const webhooks = createHandleWebhook(takeIn);
  lifecycle.add('webhooks', () => webhooks.close());
  const aside = startRetryAside(takeIn);
  lifecycle.add('webhooks aside', () => aside.stop());

  const refundWorker = startRefundWorker({ database, providers, order, metrics, log });
  refundLoop.loop = refundWorker;
  lifecycle.add('refunds', () => refundWorker.stop());
  const recording = startRecordPayments({ database, recordPayments, log });
  lifecycle.add('telling order', () => recording.stop());
  const polling = startPollSessions({ database, sessions, pollMs, log });
  lifecycle.add('polling', () => polling.stop());
  const watch = startWatchWork({ database, metrics, log });
  lifecycle.add('watch over work', () => watch.stop());

  const createPayment = createCreatePayment({
    ...{ database, order, sessions, pollMs },
    ...{ provider: provider.name, openings: provider },
  });
  const closings = createClosePayment({ database, sessions, metrics });
  lifecycle.add('closings', () => closings.close());
  const { closePayment } = closings;
  const refunds = createRefundUseCases({ database, recordPayments, wakeRefunds, metrics });
  const useCases = { createPayment, closePayment, refunds, webhooks };
  const server = await startGrpcServer({
    host: config.listen,
    port: config.port,
    services: [createPaymentService({ ...useCases, database, metrics, log })],
    tokens: createTokens({ secret: config.tokenSecret }),
    log,
    inFlightMax: config.inFlightMax,
    metrics: registry,
  });
  lifecycle.add('grpc server', () => server.stop());
  const observability = await startObservabilityServer({
    port: config.metricsPort,
    registry: registry.registry,
    ready: () => notReady(database, order),
  });
  lifecycle.add('observability server', () => observability.stop());
  return { port: server.port, metricsPort: observability.port, lifecycle, log };
}

/** The provider is not among them: webhooks and reads go on without it. */
async function notReady(database: PaymentDatabase, order: OrderGateway): Promise<string[]> {
  const waitingFor: string[] = [];
  const deadline = Deadline.after(readyDeadlineMs);
  await query(database, 'SELECT 1', [], { deadline }).catch(() => waitingFor.push('mysql'));
  if (!order.connected()) waitingFor.push('order');
  return waitingFor;
}
